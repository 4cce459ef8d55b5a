"""From right and wrong answers under every condition to effects, intervals and p (METHOD: interventions)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlgen.stage import derive_seed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BASELINE, DONOR, EFFECT = "baseline", "donor", "effect"
MATCHED, DIRECTION = "matched_random", "random_direction"
ENCODE_DECODE, CEILING = "encode_decode", "ceiling"
EXPECTED_SIGN = {"amplify": 1, "ablate": -1}
"""What each edit is expected to do to accuracy."""


@dataclass(frozen=True)
class Measured:
    """Accuracy of every item of one task under every condition."""

    accuracy: dict[str, Floats]
    """Share of right samples by condition, [draws, items]; one draw where a condition has but one."""
    weights: Floats
    """Bootstrap: how often each item is drawn in each resample, divided by their number, [resamples, items]."""

    def subset(self, edit: str) -> Bools:
        """Items that the unedited base has wrong and the unedited arm right, in at least half of the samples."""
        here, other = self.accuracy[BASELINE][0] >= 0.5, self.accuracy[DONOR][0] >= 0.5
        base, arm = (here, other) if edit == "amplify" else (other, here)
        wanted: Bools = ~base & arm
        return wanted


def measure(items: pd.DataFrame, resamples: int, seed: int) -> dict[str, Measured]:
    """By task, from rows (condition, draw, task, item, sample, right). Every condition answers the same items."""
    found = {}
    means = items.groupby(["task", "condition", "draw", "item"], sort=True)["right"].mean()
    for task in items["task"].unique():
        by_condition = means.loc[task]
        accuracy = {
            str(condition): by_condition.loc[condition].unstack("item").to_numpy(np.float64)
            for condition in by_condition.index.get_level_values("condition").unique()
        }
        n = accuracy[BASELINE].shape[1]
        rng = np.random.default_rng(derive_seed(seed, "intervene", "bootstrap", task))
        found[str(task)] = Measured(accuracy, rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n)
    return found


def block(tasks: Sequence[Measured], edit: str) -> dict[str, Any] | None:
    """Effects of one task, or of several as the mean over tasks, on all items and on the paper's subset."""
    full = _block(tasks, [np.ones(task.weights.shape[1], dtype=bool) for task in tasks], edit)
    return full and full | {"subset": _block(tasks, [task.subset(edit) for task in tasks], edit)}


def _block(tasks: Sequence[Measured], chosen: Sequence[Bools], edit: str) -> dict[str, Any] | None:
    """Mean over the tasks that have items of the mean over `chosen` items; None if there are none."""
    pairs = [(task, mask) for task, mask in zip(tasks, chosen, strict=True) if mask.any()]
    if not pairs:
        return None

    def change(condition: str) -> Floats:
        per_task = [(task.accuracy[condition] - task.accuracy[BASELINE])[:, mask].mean(axis=1) for task, mask in pairs]
        mean: Floats = np.mean(per_task, axis=0)
        return mean

    effect = float(change(EFFECT)[0])
    low, high = np.quantile(_resampled(pairs), [0.025, 0.975])
    return {
        "baseline": float(np.mean([task.accuracy[BASELINE][0][mask].mean() for task, mask in pairs])),
        "donor": float(np.mean([task.accuracy[DONOR][0][mask].mean() for task, mask in pairs])),
        "effect": effect,
        "low": float(low),
        "high": float(high),
        "n": int(sum(mask.sum() for _, mask in pairs)),
        "matched_random": _against(effect, change(MATCHED), EXPECTED_SIGN[edit]),
        "random_direction": _against(effect, change(DIRECTION), EXPECTED_SIGN[edit]),
        "encode_decode": float(change(ENCODE_DECODE)[0]),
        "ceiling": float(change(CEILING)[0]),
    }


def _resampled(pairs: Sequence[tuple[Measured, Bools]]) -> Floats:
    """The effect under resampling of items within their tasks, [resamples]."""
    found = []
    for task, mask in pairs:
        difference_I = (task.accuracy[EFFECT] - task.accuracy[BASELINE])[0][mask]
        weight_RI = task.weights[:, mask]
        total_R = weight_RI.sum(axis=1)
        found.append((weight_RI @ difference_I) / np.where(total_R > 0, total_R, 1))
    mean: Floats = np.mean(found, axis=0)
    return mean


def _against(effect: float, values: Floats, sign: int) -> dict[str, Any]:
    """What the controls' draws did, and the one-sided p that one of them does as much in the expected direction."""
    as_much = int((sign * values >= sign * effect - 1e-12).sum())
    q05, q95 = np.quantile(values, [0.05, 0.95])
    return {
        "mean": float(values.mean()),
        "q05": float(q05),
        "q95": float(q95),
        "draws": len(values),
        "values": values.tolist(),
        "p": (1 + as_much) / (1 + len(values)),
    }


def likeness(items: pd.DataFrame, edit: str, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the edited model has turned into: by group and condition, agreement with both unedited models and length.

    `like_base`, `like_arm`: share of answers equal to those of the unedited model with the same random numbers;
    `length`: mean length of the response in characters.
    """
    key = ["task", "item", "sample"]
    unedited = {name: items[items["condition"] == name].set_index(key)["answer"] for name in (BASELINE, DONOR)}
    base, arm = (BASELINE, DONOR) if edit == "amplify" else (DONOR, BASELINE)
    index = pd.MultiIndex.from_frame(items[key])
    frame = pd.DataFrame(
        {
            "condition": items["condition"],
            "task": items["task"],
            "like_base": items["answer"].to_numpy() == unedited[base].reindex(index).to_numpy(),
            "like_arm": items["answer"].to_numpy() == unedited[arm].reindex(index).to_numpy(),
            "length": items["response"].str.len(),
        }
    )
    by_task = frame.groupby(["condition", "task"])[["like_base", "like_arm", "length"]].mean()
    found: dict[str, Any] = {}
    for group, tasks in groups.items():
        rows = by_task[by_task.index.get_level_values("task").isin(tasks)]
        means = rows.groupby("condition").mean()
        found[group] = {str(name): {k: float(v) for k, v in row.items()} for name, row in means.iterrows()}
    return found
