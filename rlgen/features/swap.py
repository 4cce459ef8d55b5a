"""Swap readout of checkpoints: what the arm's features do on each checkpoint's activations (METHOD: tracking, b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.features.refit import HALVES
from rlgen.models import device

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class SwapSums:
    """Sums over one model's swapped codes f, by group of documents, in float64."""

    tokens: Tensor
    """Tokens, [groups]."""
    active: Tensor
    """Tokens on which a feature is active, [groups, F]."""
    code: Tensor
    """Sum of f, [groups, F]."""

    @classmethod
    def empty(cls, groups: int, features: int) -> SwapSums:
        """Over no tokens yet, on the device."""
        shapes = ((groups,), (groups, features), (groups, features))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device()) for shape in shapes))

    def add(self, codes_BF: Tensor, group_B: Tensor) -> None:
        """Take in codes [tokens, F] and the groups of their documents [tokens]."""
        member_GB = torch.nn.functional.one_hot(group_B, len(self.tokens)).T.to(codes_BF)
        self.tokens.add_(member_GB.sum(dim=1))
        self.active.add_(member_GB @ (codes_BF > 0).to(codes_BF))
        self.code.add_(member_GB @ codes_BF)


class Readout:
    """Swap readout at every step, base first and then the arm's checkpoints, over groups of documents."""

    def __init__(self, sums: Sequence[SwapSums]) -> None:
        """`sums` are of base in both slots, which is the arm before its training, then of the checkpoints."""
        self._tokens_G = sums[0].tokens.numpy()
        self._active_SGF = np.stack([found.active.numpy() for found in sums])
        self._code_SGF = np.stack([found.code.numpy() for found in sums])

    @property
    def groups(self) -> Indices:
        """Groups that have tokens."""
        return np.flatnonzero(self._tokens_G)

    def halves(self) -> list[Indices]:
        """The groups of each half of the documents."""
        return [self.groups[self.groups % HALVES == half] for half in range(HALVES)]

    def fired(self, groups: Indices) -> Floats:
        """Tokens of these groups on which a feature is active, [steps, F]."""
        fired_SF: Floats = self._active_SGF[:, groups].sum(axis=1)
        return fired_SF

    def rate(self, groups: Indices) -> Floats:
        """Firing rates over the tokens of these groups, [steps, F]."""
        rate_SF: Floats = self.fired(groups) / max(self._tokens_G[groups].sum(), 1)
        return rate_SF

    def mean(self, groups: Indices) -> Floats:
        """Mean codes over the tokens of these groups, inactive tokens as 0, [steps, F]."""
        mean_SF: Floats = self._code_SGF[:, groups].sum(axis=1) / max(self._tokens_G[groups].sum(), 1)
        return mean_SF

    def rise(self, groups: Indices, weight_F: Floats) -> Floats:
        """What every checkpoint's mean codes exceed base's by, times a weight by feature, [checkpoints, F].

        Features that do not rise have -inf: a checkpoint of which few rise has few top features.
        """
        mean_SF = self.mean(groups)
        rise_CF: Floats = (mean_SF[1:] - mean_SF[0]) * weight_F
        return np.where(rise_CF > 0, rise_CF, -np.inf)
