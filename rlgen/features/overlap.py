"""How far the top features of checkpoints agree, with intervals and the split-half null (METHOD: tracking)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgen.evaluation.scoring import wilson

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

Z = 1.959964
"""Standard errors on either side of a 95% interval."""


class Agreement:
    """Overlaps between checkpoints of the features that some value is highest for."""

    def __init__(self, values_HCF: Iterable[Floats], top: int) -> None:
        """The values on all documents, on the first and on the second half, [checkpoints, features] each."""
        self.tops, first, second = ([top_features(values_F, top) for values_F in part] for part in values_HCF)
        self.same_CC = overlaps(self.tops, self.tops)
        """Both on the same tokens."""
        self.halves_CC = (overlaps(first, second) + overlaps(second, first)) / 2
        """One on either half of the documents."""
        self.null = float(np.diagonal(self.halves_CC).mean())
        """A checkpoint with itself on the two halves, mean over checkpoints."""


def top_features(values_F: Floats, top: int) -> Indices:
    """The features of highest value, highest first; among equals the one of lower index. One of -inf is none."""
    best = np.argsort(-values_F, kind="stable")[:top]
    return best[values_F[best] > -np.inf]


def overlaps(tops_a: Sequence[Indices], tops_b: Sequence[Indices]) -> Floats:
    """Share of the larger one that every set of `tops_a` has in common with every set of `tops_b`, [a, b]."""
    return np.array([[len(np.intersect1d(a, b)) / max(len(a), len(b), 1) for b in tops_b] for a in tops_a])


Interval = tuple[Floats, Floats]
Intervals = tuple[Interval, Interval, Interval]
"""Of `same_CC`, `halves_CC` and `null`."""


def by_features(found: Agreement, top: int) -> Intervals:
    """95% intervals that treat the compared features as `top` draws (Wilson); documents are taken as they are."""
    (low_CC, high_CC), halves, null = (wilson(share, top) for share in (found.same_CC, found.halves_CC, found.null))
    np.fill_diagonal(low_CC, 1.0)  # a set with itself: nothing was estimated
    return (low_CC, high_CC), halves, null


def by_documents(found: Agreement, redrawn: Sequence[Agreement]) -> Intervals:
    """95% intervals by the bootstrap: `redrawn` are of documents drawn again, with the top features chosen anew."""
    return (
        bootstrapped(found.same_CC, [each.same_CC for each in redrawn]),
        bootstrapped(found.halves_CC, [each.halves_CC for each in redrawn]),
        bootstrapped(found.null, [each.null for each in redrawn]),
    )


def bootstrapped(share: Floats | float, redrawn: Sequence[Floats | float]) -> Interval:
    """A share plus and minus 1.96 bootstrap standard errors, within 0 and 1.

    Not the bootstrap's own quantiles: redrawn documents are noisier than the documents are, so redrawn sets agree less.
    """
    error = np.array(redrawn).std(axis=0, ddof=1)
    return np.clip(share - Z * error, 0, 1), np.clip(share + Z * error, 0, 1)


def overlap_block(found: Agreement, intervals: Intervals, checkpoints: list[str], features: Indices) -> dict[str, Any]:
    """The agreement as tracking.json has it; `features` are what the values' columns stand for."""
    same, halves, null = intervals
    null_C, top = np.diagonal(found.halves_CC), max(map(len, found.tops))
    spread = {"low": float(null_C.min()), "high": float(null_C.max())}
    return {
        "overlap": found.same_CC.tolist(),
        "overlap_low": same[0].tolist(),
        "overlap_high": same[1].tolist(),
        "overlap_across_halves": found.halves_CC.tolist(),
        "overlap_across_halves_low": halves[0].tolist(),
        "overlap_across_halves_high": halves[1].tolist(),
        "null": {"mean": found.null, **spread, "mean_low": float(null[0]), "mean_high": float(null[1])},
        "chance": top / len(features) if len(features) else None,
        "top": top,
        "top_features": {name: features[best].tolist() for name, best in zip(checkpoints, found.tops, strict=True)},
        "features": len(features),
    }
