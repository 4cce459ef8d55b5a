"""The Score of localisation, which features pass it, and its null (METHOD: localisation)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

THRESHOLDS = tuple(step / 20 for step in range(20))
"""Of the threshold curve: shares of a task's maximum."""


class Scores:
    """One number by task and feature: the mean, over the items that base has wrong and the arm right, of a value."""

    def __init__(self, values: dict[str, Floats], labels: dict[str, Bools], weight_F: Floats, alive_F: Bools) -> None:
        """`values[task]` are by item and feature, [items, F]; `labels[task]` mark the items that count, [items].

        `weight_F` makes the scores of different features comparable when they are ranked. Features that are not
        `alive_F` take no part.
        """
        self.tasks = list(values)
        self.values, self.labels, self.weight_F, self.alive_F = values, labels, weight_F, alive_F
        self.score_TF = np.stack([self.of(task, labels[task][None])[0] for task in self.tasks])
        """Score by task; 0 for features that take no part and on tasks without items."""
        self.used_T = np.array([labels[task].any() for task in self.tasks])
        """Tasks that have items."""

    def of(self, task: str, chosen_PI: Bools) -> Floats:
        """Score under each of several choices of items, [choices, F]."""
        weight_PI = chosen_PI / np.maximum(chosen_PI.sum(axis=1, keepdims=True), 1)
        score_PF: Floats = (weight_PI @ self.values[task]) * self.alive_F
        return score_PF

    def kept(self, threshold: float | None, score_TF: Floats | None = None) -> Bools:
        """Which features exceed `threshold` of a task's maximum, [tasks, F]; none where the maximum is not positive.

        Without a threshold, on all tasks those whose strength is positive.
        """
        found_TF = self.score_TF if score_TF is None else score_TF
        if threshold is None:
            positive_TF: Bools = np.broadcast_to(self.strength(found_TF) > 0, found_TF.shape)
            return positive_TF
        highest_T = found_TF.max(axis=-1, keepdims=True)
        kept_TF: Bools = (found_TF > threshold * highest_T) & (highest_T > 0)
        return kept_TF

    def everywhere(self, kept_TF: Bools) -> Bools:
        """Which features pass on every task that has items, [F]."""
        passed_F: Bools = kept_TF[self.used_T].all(axis=0) & bool(self.used_T.any())
        return passed_F

    def strength(self, score_TF: Floats | None = None) -> Floats:
        """Weighted score, mean over the tasks that have items, [F]."""
        used_TF = (self.score_TF if score_TF is None else score_TF)[self.used_T]
        mean_F: Floats = used_TF.mean(axis=0) if len(used_TF) else np.zeros(len(self.weight_F))
        return mean_F * self.weight_F

    def ranked(self, kept_TF: Bools, score_TF: Floats | None = None) -> Indices:
        """The features that pass on every task, strongest first."""
        passed = np.flatnonzero(self.everywhere(kept_TF))
        return passed[np.argsort(-self.strength(score_TF)[passed], kind="stable")]


def threshold_curve(scores: Scores) -> list[dict[str, float]]:
    """How many features pass on every task, by threshold."""
    return [{"threshold": t, "kept": int(scores.everywhere(scores.kept(t)).sum())} for t in THRESHOLDS]


def permutation_null(
    scores: Scores, threshold: float | None, top: int, draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Whether it matters *which* items count: as many items drawn at random from the same ones, `draws` times.

    `kept`: features that pass on every task. `strength`: strengths summed over the features that would be chosen.
    `overlap`: share of the localised features that random items choose too, near 1 if arm and base differ alike on
    all items.
    """
    score_PTF = np.stack([scores.of(task, _shuffled(scores.labels[task], draws, rng)) for task in scores.tasks], axis=1)
    localised, observed_kept, observed_strength = _chosen(scores, threshold, top, scores.score_TF)
    found = [_chosen(scores, threshold, top, score_TF) for score_TF in score_PTF]
    overlap = [len(np.intersect1d(features, localised)) / max(len(localised), 1) for features, _, _ in found]
    return {
        "draws": draws,
        "kept": _against(observed_kept, [kept for _, kept, _ in found]),
        "strength": _against(observed_strength, [strength for _, _, strength in found]),
        "overlap": {"mean": float(np.mean(overlap)), **_band(overlap)},
    }


def _chosen(scores: Scores, threshold: float | None, top: int, score_TF: Floats) -> tuple[Indices, float, float]:
    """The features that these scores choose, how many pass, and the chosen ones' summed strength."""
    kept_TF = scores.kept(threshold, score_TF)
    features = scores.ranked(kept_TF, score_TF)[:top]
    passed = scores.everywhere(kept_TF).sum()
    return features, float(passed), float(scores.strength(score_TF)[features].sum())


def _shuffled(label_I: Bools, draws: int, rng: np.random.Generator) -> Bools:
    return np.stack([rng.permutation(label_I) for _ in range(draws)])


def _against(observed: float, null: list[float]) -> dict[str, float]:
    """The observed value, the null's mean and 90% band, and the one-sided p of being as high."""
    p = (1 + sum(value >= observed for value in null)) / (1 + len(null))
    return {"observed": observed, "mean": float(np.mean(null)), **_band(null), "p": p}


def _band(values: list[float]) -> dict[str, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return {"low": float(low), "high": float(high)}
