"""What an edit is held against: matched random features, random directions (METHOD: interventions)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.stage import derive_seed

WINDOW = 32
"""A localised feature's stand-in is drawn from so many alive features of nearest firing rate."""


def matched_sets(rate_F: NDArray[np.float64], selected: Sequence[int], draws: int, seed: int) -> list[list[int]]:
    """`draws` random feature sets, each with one stand-in for every selected feature, in their order.

    A stand-in is alive, not selected, not used twice in a set, and among the WINDOW nearest in log firing rate that
    are left. If fewer features are left than selected, sets are smaller.
    """
    log_F = np.log(np.where(rate_F > 0, rate_F, 1.0))
    pool = np.setdiff1d(np.flatnonzero(rate_F > 0), selected)
    sets = []
    for draw in range(draws):
        rng = np.random.default_rng(derive_seed(seed, "intervene", "matched", draw))
        left, chosen = pool.copy(), []
        for feature in selected[: len(pool)]:
            distance = np.abs(log_F[left] - log_F[feature])
            nearest = left[np.argsort(distance, kind="stable")[:WINDOW]]
            chosen.append(int(rng.choice(nearest)))
            left = left[left != chosen[-1]]
        sets.append(chosen)
    return sets


def matched_shift(rows_FD: Tensor, selected: Sequence[int], steps_KD: Tensor, stand_ins: Sequence[int]) -> Tensor:
    """The shift that amplifies the stand-ins instead of the selected features, of equal norm, [d].

    Every stand-in injects along its own decoder row the norm that its partner injects, with the sign that the
    partner's step has along the partner's row; the sum is rescaled to the norm of the selected features' shift.
    """
    count = len(stand_ins)
    sign_K = (steps_KD * rows_FD[list(selected)]).sum(dim=-1).sign()[:count]
    unit_KD = torch.nn.functional.normalize(rows_FD[list(stand_ins)], dim=-1)
    total_D = ((sign_K * steps_KD.norm(dim=-1)[:count])[:, None] * unit_KD).sum(dim=0)
    return rescaled(total_D, steps_KD.sum(dim=0).norm())


def random_direction(d: int, draw: int, seed: int) -> Tensor:
    """A random direction of norm 1, [d]."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "intervene", "direction", draw))
    return torch.nn.functional.normalize(torch.randn(d, generator=generator), dim=0)


def rescaled(vector_D: Tensor, norm: Tensor) -> Tensor:
    """The vector with another norm; nothing stays nothing."""
    return torch.nn.functional.normalize(vector_D, dim=0) * norm
