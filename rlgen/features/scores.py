"""The Score of localisation and which features pass it (METHOD: localisation)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

THRESHOLDS = tuple(step / 20 for step in range(20))
"""Of the threshold curve: shares of a task's maximum."""
DRAWS = 16
"""Choices of items scored at once: their scores by task and feature are in memory."""


@dataclass(frozen=True)
class Scores:
    """One number by task and feature."""

    score_TF: Floats
    """0 for features that take no part and on tasks without items."""
    used_T: Bools
    """Tasks that have items."""
    weight_F: Floats
    """Makes the scores of different features comparable when they are ranked."""

    def kept(self, threshold: float | None) -> Bools:
        """Which features exceed `threshold` of a task's maximum, [tasks, F]; none where the maximum is not positive.

        Without a threshold, on all tasks those whose strength is positive.
        """
        if threshold is None:
            positive_TF: Bools = np.broadcast_to(self.strength > 0, self.score_TF.shape)
            return positive_TF
        highest_T = self.score_TF.max(axis=-1, keepdims=True)
        kept_TF: Bools = (self.score_TF > threshold * highest_T) & (highest_T > 0)
        return kept_TF

    def everywhere(self, threshold: float | None) -> Bools:
        """Which features pass on every task that has items, [F]."""
        kept_TF = self.kept(threshold)[self.used_T]
        passed_F: Bools = np.all(kept_TF, axis=0) if len(kept_TF) else np.zeros(len(self.weight_F), dtype=bool)
        return passed_F

    @cached_property
    def strength(self) -> Floats:
        """Weighted score, mean over the tasks that have items, [F]."""
        used_TF = self.score_TF[self.used_T]
        mean_F: Floats = used_TF.mean(axis=0) if len(used_TF) else np.zeros(len(self.weight_F))
        return mean_F * self.weight_F

    def ranked(self, threshold: float | None) -> Indices:
        """The features that pass on every task, strongest first."""
        passed = np.flatnonzero(self.everywhere(threshold))
        return passed[np.argsort(-self.strength[passed], kind="stable")]


@dataclass(frozen=True)
class ItemValues:
    """A value by item and feature, and the items that count: those that base has wrong and the arm right."""

    values: dict[str, Floats]
    """By task, [items, F]."""
    labels: dict[str, Bools]
    """Which items count, by task, [items]."""
    weight_F: Floats
    """As of `Scores`."""
    alive_F: Bools
    """Features that take part."""

    @property
    def tasks(self) -> list[str]:
        """In the order of the scores' rows."""
        return list(self.values)

    @cached_property
    def scores(self) -> Scores:
        """The mean value over the items that count."""
        return next(self.under({task: label_I[None] for task, label_I in self.labels.items()}))

    def under(self, counts: Mapping[str, Indices | Bools]) -> Iterator[Scores]:
        """The scores where other items count, each so many times, by task [choices, items]; one choice at a time."""
        choices = len(next(iter(counts.values())))
        for start in range(0, choices, DRAWS):
            some = {task: count_PI[start : start + DRAWS] for task, count_PI in counts.items()}
            score_PTF = np.stack([self._means(task, some[task]) for task in self.tasks], axis=1)
            used_PT = np.stack([some[task].any(axis=1) for task in self.tasks], axis=1)
            for score_TF, used_T in zip(score_PTF, used_PT, strict=True):
                yield Scores(score_TF, used_T, self.weight_F)

    def _means(self, task: str, count_PI: Indices | Bools) -> Floats:
        weight_PI = count_PI / np.maximum(count_PI.sum(axis=1, keepdims=True), 1)
        score_PF: Floats = (weight_PI @ self.values[task]) * self.alive_F
        return score_PF


def threshold_curve(scores: Scores) -> list[dict[str, float]]:
    """How many features pass on every task, by threshold."""
    return [{"threshold": t, "kept": int(scores.everywhere(t).sum())} for t in THRESHOLDS]
