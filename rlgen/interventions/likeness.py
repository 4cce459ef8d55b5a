"""What an edited model has turned into: the other model, or neither (METHOD: interventions)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlgen.interventions.effects import BASELINE, DONOR, EDITED, EFFECT, MATCHED

Floats = NDArray[np.float64]

MEASURES = ("like_base", "like_arm", "mode", "kl_base", "kl_arm", "length")
"""`like_base`, `like_arm`: share of answers equal to those of the unedited model with the same random numbers; `mode`:
share of answers in the study's mode; `kl_base`, `kl_arm`: KL divergence of the next-token distribution after the prompt
to that of the unedited model, nats; `length`: mean length of the response in characters."""


def likeness(items: pd.DataFrame, edit: str, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """By group and condition, `MEASURES`, mean over tasks; None where a study has none."""
    means = _by_draw(items, edit)
    found: dict[str, Any] = {}
    for group, tasks in groups.items():
        rows = means[means.index.get_level_values("task").isin(tasks)].groupby("condition").mean()
        found[group] = {
            str(name): {key: None if pd.isna(value) else float(value) for key, value in row.items()}
            for name, row in rows.iterrows()
        }
    return found


def turned(
    items: pd.DataFrame, edit: str, tasks: Sequence[str], resamples: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    """How far the edited model has gone towards the other one at the decision, beside what matched sets do.

    `statistic`: 1 - KL(edited || other) / KL(unedited || other), mean over tasks of mean KLs: 1 is the other model, 0
    has come no nearer, below 0 has gone elsewhere. With a 95% bootstrap interval over items and `p`, one-sided: that a
    matched set comes as near, where they were measured. None without items or where the two models do not differ.
    """
    column = {"base": "kl_arm", "arm": "kl_base"}[EDITED[edit]]
    here = items[items["task"].isin(tasks) & items[column].notna()]
    if here.empty:
        return None
    per_item = here.groupby(["task", "condition", "draw", "item"], sort=True)[column].mean()
    kept = [per_item.loc[task] for task in tasks if task in per_item.index.get_level_values("task")]
    before = float(np.mean([values.loc[BASELINE].mean() for values in kept]))
    if before <= 0:
        return None

    def gone(condition: str) -> Floats:
        draws = [values.loc[condition].groupby("draw").mean().to_numpy(np.float64) for values in kept]
        share: Floats = 1 - np.mean(draws, axis=0) / before
        return share

    effect = float(gone(EFFECT)[0])
    low, high = np.quantile(_resampled(kept, resamples, rng), [0.025, 0.975])
    return {
        "statistic": effect,
        "low": float(low),
        "high": float(high),
        "n": int(sum(len(values.loc[BASELINE]) for values in kept)),
        "kl_before": before,
        "kl_after": float(before * (1 - effect)),
        "towards": "arm" if EDITED[edit] == "base" else "base",
        **(_beside(effect, gone(MATCHED)) if MATCHED in kept[0].index.get_level_values("condition") else {}),
    }


def _beside(effect: float, matched: Floats) -> dict[str, Any]:
    """What matched sets do, and the one-sided p that one of them comes as near."""
    low, high = np.quantile(matched, [0.05, 0.95])
    draws = {"mean": float(matched.mean()), "q05": float(low), "q95": float(high), "draws": len(matched)}
    return {"matched_random": draws, "p": (1 + int((matched >= effect - 1e-12).sum())) / (1 + len(matched))}


def _resampled(kept: Sequence[pd.Series[float]], resamples: int, rng: np.random.Generator) -> Floats:
    """The statistic under resampling of items within their tasks, [resamples]."""
    sums = []
    for values in kept:
        before_I, after_I = (np.asarray(values.loc[name], dtype=np.float64) for name in (BASELINE, EFFECT))
        weight_RI = rng.multinomial(len(before_I), np.full(len(before_I), 1 / len(before_I)), resamples) / len(before_I)
        sums.append((weight_RI @ before_I, weight_RI @ after_I))
    before_R, after_R = np.mean([a for a, _ in sums], axis=0), np.mean([b for _, b in sums], axis=0)
    share: Floats = 1 - after_R / np.where(before_R > 0, before_R, 1)
    return share


def _by_draw(items: pd.DataFrame, edit: str) -> pd.DataFrame:
    """Means of the measures by condition and task."""
    key = ["task", "item", "sample"]
    if "response" in items:  # where nothing was read as the answer, all that was written is compared
        items = items.assign(answer=items["answer"].fillna(items["response"]))
    unedited = {name: items[items["condition"] == name].set_index(key)["answer"] for name in (BASELINE, DONOR)}
    base, arm = (BASELINE, DONOR) if EDITED[edit] == "base" else (DONOR, BASELINE)
    index = pd.MultiIndex.from_frame(items[key])
    frame = items[["condition", "task", "kl_base", "kl_arm", "length"]].assign(
        like_base=items["answer"].to_numpy() == unedited[base].reindex(index).to_numpy(),
        like_arm=items["answer"].to_numpy() == unedited[arm].reindex(index).to_numpy(),
        mode=items["mode"].astype("Float64"),
    )
    return frame.groupby(["condition", "task"])[list(MEASURES)].mean().astype("float64")
