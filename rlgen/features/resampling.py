"""What hangs on the items of a localisation: on which of them count, and on which happened to be there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgen.features.scores import Bools, Indices, ItemValues, Scores

STABLE = 0.8
"""A feature chosen in this share of the resamples is called stable."""


def permutation_null(
    values: ItemValues, threshold: float | None, top: int, draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Whether it matters *which* items count: as many items drawn at random from the same ones, `draws` times.

    `kept`: features that pass on every task. `strength`: strengths summed over the features that would be chosen.
    `overlap`: share of the localised features that random items choose too, near 1 if arm and base differ alike on
    all items.
    """
    localised, observed_kept, observed_strength = _chosen(values.scores, threshold, top)
    shuffled = {task: _shuffled(values.labels[task], draws, rng) for task in values.tasks}
    found = [_chosen(scores, threshold, top) for scores in values.under(shuffled)]
    return {
        "draws": draws,
        "kept": _against(observed_kept, [kept for _, kept, _ in found]),
        "strength": _against(observed_strength, [strength for _, _, strength in found]),
        "overlap": _spread([_share(localised, features) for features, _, _ in found]),
    }


def bootstrap(
    values: ItemValues, threshold: float | None, top: int, draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Whether the same features would be chosen on other items of the kind: each task's resampled, with their labels.

    `frequency`: share of the `draws` resamples that choose a localised feature again, strongest first. `stable`: how
    many are chosen again in at least 0.8 of them. `overlap`: share of the localised features that a resample chooses.
    A task of which a resample has no item that counts is left out of its intersection.
    """
    localised = values.scores.ranked(threshold)[:top]
    counts = {task: _resampled(len(values.labels[task]), draws, rng) * values.labels[task] for task in values.tasks}
    found = [scores.ranked(threshold)[:top] for scores in values.under(counts)]
    again_PK = np.stack([np.isin(localised, features) for features in found])
    frequency_K = again_PK.mean(axis=0)
    return {
        "draws": draws,
        "frequency": frequency_K.tolist(),
        "stable": int((frequency_K >= STABLE).sum()),
        "overlap": _spread([_share(localised, features) for features in found]),
    }


def _chosen(scores: Scores, threshold: float | None, top: int) -> tuple[Indices, float, float]:
    """The features that these scores choose, how many pass, and the chosen ones' summed strength."""
    passed = scores.ranked(threshold)
    return passed[:top], float(len(passed)), float(scores.strength[passed[:top]].sum())


def _shuffled(label_I: Bools, draws: int, rng: np.random.Generator) -> Bools:
    return np.stack([rng.permutation(label_I) for _ in range(draws)])


def _resampled(items: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each item is drawn when as many are drawn with replacement, [draws, items]."""
    drawn_PI = rng.integers(max(items, 1), size=(draws, items))
    count_PI = np.zeros((draws, items), dtype=np.int64)
    np.add.at(count_PI, (np.arange(draws)[:, None], drawn_PI), 1)
    return count_PI


def _share(localised: Indices, features: Indices) -> float:
    return len(np.intersect1d(features, localised)) / max(len(localised), 1)


def _against(observed: float, null: list[float]) -> dict[str, float]:
    """The observed value, the null's mean and 90% band, and the one-sided p of being as high."""
    p = (1 + sum(value >= observed for value in null)) / (1 + len(null))
    return {"observed": observed, **_spread(null), "p": p}


def _spread(values: list[float]) -> dict[str, float]:
    """Mean and 90% band."""
    low, high = np.quantile(values, [0.05, 0.95])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}
