"""From right and wrong answers under every condition to effects, intervals and p (METHOD: interventions)."""

from __future__ import annotations

from collections.abc import Sequence
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
ENCODE_DECODE, CEILING, SWEEP = "encode_decode", "ceiling", "sweep"
EDITS = (EFFECT, MATCHED, DIRECTION, SWEEP)
"""Conditions that change nothing where there is nothing to edit."""
EXPECTED_SIGN = {"amplify": 1, "scale": 1, "transplant": 1, "ablate": -1, "mean_ablate": -1, "revert": -1}
"""What each edit is expected to do to accuracy."""
EDITED = {edit: "base" if sign > 0 else "arm" for edit, sign in EXPECTED_SIGN.items()}
"""Which model an edit is made in; the other one is the donor of the ceiling and of a transplant."""


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
        base, arm = (here, other) if EDITED[edit] == "base" else (other, here)
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

    effect, ceiling = float(change(EFFECT)[0]), float(change(CEILING)[0])
    low, high = np.quantile(_resampled(pairs, EFFECT), [0.025, 0.975])
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
        "ceiling": ceiling,
        "of_ceiling": effect / ceiling if ceiling * EXPECTED_SIGN[edit] > 0 else None,
    }


def change(tasks: Sequence[Measured], condition: str) -> dict[str, float]:
    """A condition's effect on the mean of tasks, with its 95% bootstrap interval over items."""
    pairs = [(task, np.ones(task.weights.shape[1], dtype=bool)) for task in tasks]
    low, high = np.quantile(_resampled(pairs, condition), [0.025, 0.975])
    effect = np.mean([(task.accuracy[condition][0] - task.accuracy[BASELINE][0]).mean() for task in tasks])
    return {"effect": float(effect), "low": float(low), "high": float(high)}


def sweep(tasks: Sequence[Measured], alphas: Sequence[float]) -> list[dict[str, float]]:
    """The effect on the mean of tasks at further strengths, with 95% bootstrap intervals over items."""
    pairs = [(task, np.ones(task.weights.shape[1], dtype=bool)) for task in tasks]
    found = []
    for draw, alpha in enumerate(alphas if pairs else []):
        effects_R = _resampled(pairs, SWEEP, draw)
        effect = np.mean([(task.accuracy[SWEEP][draw] - task.accuracy[BASELINE][0]).mean() for task, _ in pairs])
        low, high = np.quantile(effects_R, [0.025, 0.975])
        found.append({"alpha": alpha, "effect": float(effect), "low": float(low), "high": float(high)})
    return found


def _resampled(pairs: Sequence[tuple[Measured, Bools]], condition: str, draw: int = 0) -> Floats:
    """An effect under resampling of items within their tasks, [resamples]."""
    found = []
    for task, mask in pairs:
        difference_I = (task.accuracy[condition][draw] - task.accuracy[BASELINE][0])[mask]
        weight_RI = task.weights[:, mask]
        total_R = weight_RI.sum(axis=1)
        found.append((weight_RI @ difference_I) / np.where(total_R > 0, total_R, 1))
    mean: Floats = np.mean(found, axis=0)
    return mean


def _against(effect: float, values: Floats, sign: int) -> dict[str, Any]:
    """What the controls' draws did, and the one-sided p that one of them does as much in the expected direction."""
    as_much = int((sign * values >= sign * effect - 1e-12).sum())
    q05, q95 = np.quantile(values, [0.05, 0.95])
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {
        "mean": float(values.mean()),
        "z": (effect - float(values.mean())) / spread if spread else None,
        "q05": float(q05),
        "q95": float(q95),
        "draws": len(values),
        "values": values.tolist(),
        "p": (1 + as_much) / (1 + len(values)),
    }
