"""Accuracy differences between models, paired by item: the same items were asked of every model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from rlgen.evaluation.scoring import paired_test

Z95 = 1.959964
"""Half-width of a 95% normal interval, in standard errors."""


def item_accuracy(items: pd.DataFrame) -> pd.Series[float]:
    """Share of right samples of each item, indexed by (task, item)."""
    return items.groupby(["task", "item"], sort=True)["right"].mean().astype(float)


def mean_over_tasks(values: pd.Series[float], tasks: Sequence[str]) -> dict[str, Any] | None:
    """Mean over tasks of the mean over items, with its 95% normal interval over items; n is the number of items.

    Tasks weigh the same whatever their size, as in the paper's averages. None if there are no such items.
    """
    present = [task for task in tasks if task in values.index.get_level_values("task")]
    if not present:
        return None
    columns = [values[values.index.get_level_values("task") == task].to_numpy(np.float64) for task in present]
    variance = sum(float(np.var(c, ddof=1)) / len(c) for c in columns if len(c) > 1) / len(columns) ** 2
    value, half = float(np.mean([c.mean() for c in columns])), Z95 * math.sqrt(variance)
    return {"value": value, "low": value - half, "high": value + half, "n": sum(len(c) for c in columns)}


def group_accuracy(items: Mapping[str, pd.DataFrame], groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Mean accuracy by model and task group."""
    means = {model: item_accuracy(frame) for model, frame in items.items()}
    return {m: {g: mean_over_tasks(values, tasks) for g, tasks in groups.items()} for m, values in means.items()}


def contrasts(
    items: Mapping[str, pd.DataFrame], base: str, groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Each arm's accuracy minus base's, by task group, paired by item."""
    reference = item_accuracy(items[base])
    found: dict[str, dict[str, Any]] = {}
    for arm, frame in items.items():
        if arm != base:
            difference = (item_accuracy(frame) - reference).dropna()
            found[arm] = {group: mean_over_tasks(difference, tasks) for group, tasks in groups.items()}
    return found


def paired_tests(items: Mapping[str, pd.DataFrame], groups: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Every model against every one before it, the arms against base first: a test for each task and group.

    Items weigh the same in a group's test, whatever their task; null where a group has none.
    """
    found = []
    for against, model in combinations(items, 2):
        both = pd.concat([_by_item(items[model]), _by_item(items[against])], axis=1, join="inner", keys=["a", "b"])
        in_task = both.index.get_level_values("task")
        pooled = {group: _test(both[in_task.isin(tasks)]) for group, tasks in groups.items()}
        single = {task: _test(both[in_task == task]) for tasks in groups.values() for task in tasks}
        found.append({"model": model, "against": against, "groups": pooled, "tasks": single})
    return found


def _by_item(items: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and number of samples of each item, indexed by (task, item)."""
    return items.groupby(["task", "item"], sort=True)["right"].agg(["mean", "size"]).astype(float)


def _test(both: pd.DataFrame) -> dict[str, Any] | None:
    single = bool((both["a"]["size"] == 1).all() and (both["b"]["size"] == 1).all())
    return paired_test(both["a"]["mean"], both["b"]["mean"], single) if len(both) else None
