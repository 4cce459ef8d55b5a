"""How the arms' training went: their curves, and that they were trained on the same problems in the same order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rlgen.errors import StudyError
from rlgen.paths import Layout
from rlgen.posttrain.gradients import GRADIENT, REWARD, SPREAD, zero_gradients

CURVES = {
    "loss": "loss",
    "reward": "reward",
    "completions/mean_length": "completion length, tokens",
    "entropy": "entropy, nats a token",
    "kl_to_base": "KL to base, nats a token",
}
"""Columns of an arm's curves that the report draws, and what it calls them."""
_POINTS = 200
"""A curve has no more of them: longer ones are means over windows."""


def training(paths: Layout, arms: Mapping[str, str]) -> dict[str, Any]:
    """By arm that was trained here: {steps, problems, gradient, curves: {column: {steps, values}}}.

    `gradient` says in how many steps the gradient was exactly zero (`zero_gradients`); None if the curves lack it.
    Raises StudyError if two arms were not trained on the same problems in the same order.
    """
    found: dict[str, Any] = {}
    for arm in arms:
        file = paths.model(arm) / "curves.parquet"
        if file.is_file():
            table = pd.read_parquet(file)
            curves = {column: _curve(table, column) for column in CURVES if column in table}
            found[arm] = {"steps": int(table["step"].max()), "problems": _problems(paths, arm), "curves": curves}
            found[arm]["gradient"] = _gradient(table)
    told = {arm: block["problems"] for arm, block in found.items() if block["problems"]}
    for arm, problems in told.items():
        first = next(iter(told))
        if problems != told[first]:
            raise StudyError(
                f"{paths.model(arm)}: `{arm}` was trained on {problems['count']} problems that are not those of "
                f"`{first}` in the same order ({told[first]['count']}); make both arms again"
            )
    return found


def _problems(paths: Layout, arm: str) -> dict[str, Any] | None:
    file = paths.model(arm) / "problems.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _gradient(table: pd.DataFrame) -> dict[str, Any] | None:
    if GRADIENT not in table:
        return None
    columns = [column for column in (GRADIENT, REWARD, SPREAD) if column in table]
    rows = table.sort_values("step")[columns].astype(object).where(lambda values: values.notna(), None)
    return zero_gradients([{str(key): value for key, value in row.items()} for row in rows.to_dict("records")])


def _curve(table: pd.DataFrame, column: str) -> dict[str, list[float]]:
    """Steps and values, thinned."""
    measured = table[["step", column]].dropna().to_numpy(np.float64)
    windows = np.array_split(measured, min(len(measured), _POINTS) or 1)
    steps, values = (np.array([window[:, i].mean() for window in windows if len(window)]) for i in (0, 1))
    return {"steps": steps.tolist(), "values": values.tolist()}
