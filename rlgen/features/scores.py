"""The Score of localisation, which features pass it, and its null (METHOD: localisation)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]
Change = Literal["raised", "either"]

THRESHOLDS = tuple(step / 20 for step in range(20))
"""Of the threshold curve: shares of a task's maximum."""


class Scores:
    """Score_k = E[f_k^arm - f_k^base] over the items that base has wrong and the arm right, by task."""

    def __init__(
        self,
        codes: dict[str, dict[str, Floats]],
        labels: dict[str, Bools],
        norm_F: Floats,
        alive_F: Bools,
        change: Change = "raised",
    ) -> None:
        """`codes[task]` are those of `base` and `arm`, [items, F]; `labels[task]` mark the items that count, [items].

        `norm_F`: the arm's decoder norm, in raw units. Features that are not `alive_F` take no part. `change`:
        whether only features that the arm raises pass, or also those that it lowers on every task.
        """
        self.tasks = list(codes)
        self.codes, self.labels, self.norm_F, self.alive_F, self.change = codes, labels, norm_F, alive_F, change
        self.score_TF = np.stack([self.of(task, labels[task][None])[0] for task in self.tasks])
        """Score by task; 0 for features that take no part and on tasks without items."""
        self.used_T = np.array([labels[task].any() for task in self.tasks])
        """Tasks that have items."""

    def of(self, task: str, chosen_PI: Bools) -> Floats:
        """Score under each of several choices of items, [choices, F]."""
        difference_IF = self.codes[task]["arm"] - self.codes[task]["base"]
        weight_PI = chosen_PI / np.maximum(chosen_PI.sum(axis=1, keepdims=True), 1)
        score_PF: Floats = (weight_PI @ difference_IF) * self.alive_F
        return score_PF

    def kept(self, threshold: float, score_TF: Floats | None = None) -> Bools:
        """Which features exceed `threshold` of a task's maximum, [tasks, F]; none where the maximum is not positive."""
        size_TF = self._size(self.score_TF if score_TF is None else score_TF)
        highest_T = size_TF.max(axis=-1, keepdims=True)
        kept_TF: Bools = (size_TF > threshold * highest_T) & (highest_T > 0)
        return kept_TF

    def everywhere(self, kept_TF: Bools, score_TF: Floats | None = None) -> Bools:
        """Which features pass on every task that has items, in the same direction, [F]."""
        used_TF = (self.score_TF if score_TF is None else score_TF)[self.used_T]
        one_way_F = (used_TF >= 0).all(axis=0) | (used_TF <= 0).all(axis=0)
        passed_F: Bools = kept_TF[self.used_T].all(axis=0) & one_way_F & bool(self.used_T.any())
        return passed_F

    def strength(self, score_TF: Floats | None = None) -> Floats:
        """Norm of the shift that a feature would inject, signed, mean over tasks that have items, [F], raw units.

        Scores of features are not comparable as they are: a code may be doubled and its decoder halved. What a
        feature does to the residual stream, score times decoder norm, is.
        """
        used_TF = (self.score_TF if score_TF is None else score_TF)[self.used_T]
        mean_F: Floats = used_TF.mean(axis=0) if len(used_TF) else np.zeros(len(self.norm_F))
        return mean_F * self.norm_F

    def ranked(self, kept_TF: Bools, score_TF: Floats | None = None) -> Indices:
        """The features that pass on every task, strongest first."""
        passed = np.flatnonzero(self.everywhere(kept_TF, score_TF))
        return passed[np.argsort(-self._size(self.strength(score_TF))[passed], kind="stable")]

    def table(self) -> pd.DataFrame:
        """One row a task and feature: score, and the mean codes of both models on the task's items."""
        frames = []
        for index, task in enumerate(self.tasks):
            chosen = self.labels[task]
            means = {
                f"mean_code_{name}": codes[chosen].mean(axis=0) if chosen.any() else np.zeros(len(self.norm_F))
                for name, codes in self.codes[task].items()
            }
            frame = pd.DataFrame({"feature": np.arange(len(self.norm_F)), "task": task})
            frames.append(frame.assign(score=self.score_TF[index], **means))
        return pd.concat(frames, ignore_index=True)

    def _size(self, score: Floats) -> Floats:
        return np.abs(score) if self.change == "either" else score


def threshold_curve(scores: Scores) -> list[dict[str, float]]:
    """How many features pass on every task, by threshold."""
    return [{"threshold": t, "kept": int(scores.everywhere(scores.kept(t)).sum())} for t in THRESHOLDS]


def permutation_null(
    scores: Scores, threshold: float, top: int, draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Whether it matters *which* items count: as many items drawn at random from the same ones, `draws` times.

    `kept`: features that pass on every task. `strength`: magnitudes summed over the features that would be chosen.
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


def _chosen(scores: Scores, threshold: float, top: int, score_TF: Floats) -> tuple[Indices, float, float]:
    """The features that these scores choose, how many pass, and the chosen ones' summed strength."""
    kept_TF = scores.kept(threshold, score_TF)
    features = scores.ranked(kept_TF, score_TF)[:top]
    passed = scores.everywhere(kept_TF, score_TF).sum()
    return features, float(passed), float(np.abs(scores.strength(score_TF)[features]).sum())


def _shuffled(label_I: Bools, draws: int, rng: np.random.Generator) -> Bools:
    return np.stack([rng.permutation(label_I) for _ in range(draws)])


def _against(observed: float, null: list[float]) -> dict[str, float]:
    """The observed value, the null's mean and 90% band, and the one-sided p of being as high."""
    p = (1 + sum(value >= observed for value in null)) / (1 + len(null))
    return {"observed": observed, "mean": float(np.mean(null)), **_band(null), "p": p}


def _band(values: list[float]) -> dict[str, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return {"low": float(low), "high": float(high)}
