"""Decoder refit: another model's decoder for a frozen code, by ridge regression in closed form (METHOD: tracking, a).

All sums are streamed over the tokens and kept apart for two halves of the documents, so that one pass gives the
refit on all tokens and on each half.

Memory, for F features and width d, in GB at F 32,768 and d 2,560. On the device, whatever the number of checkpoints:
- summing codes: Gram matrices of two halves, 2 F^2 doubles (17.2), and a block's product, F^2 floats (4.3);
- summing a model: its cross products, 2 F d doubles (1.3), and a block's, F d floats (0.3);
- solving: the Gram matrix and its Cholesky factor, or the factor and the solver's copy of it, 2 F^2 doubles (17.2),
  and of one model 3 F d doubles (2.0).
To each of these come the crosscoder, 16 F d bytes (1.3), the sparse codes, 12 bytes an active feature and token (4.8
for 4M tokens with 100 active), and a few blocks of 4,096 tokens' dense codes, 4 bytes each (0.5).
On the host, and in the scratch folder: 2 F^2 doubles (17.2), and 2 F d doubles a model (14.8 for base and 10
checkpoints); while it solves, a copy of a Gram matrix (8.6) too. Without a GPU, the device's part is the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.errors import StudyError
from rlgen.models import device
from rlgen.stage import atomic_path

Floats = NDArray[np.float64]
Codes = list[Tensor]
"""Codes of some tokens, one sparse matrix [F, tokens] for each half of the documents."""

HALVES = 2


def halved(codes_BF: Tensor, half_B: Tensor) -> Codes:
    """Codes of tokens, [tokens, F], by their half, which is 0 or 1, [tokens]."""
    return [codes_BF[half_B == half].T.to_sparse_csr() for half in range(HALVES)]


@dataclass(frozen=True)
class CodeSums:
    """Sums over the codes f, by half, in float64: what every model's refit shares."""

    count: Tensor
    """Tokens, [2]."""
    fired: Tensor
    """Tokens on which a feature is active, [2, F]."""
    total: Tensor
    """Sum of f, [2, F]."""
    gram: Tensor
    """Sum of f'f, [2, F, F]."""

    @classmethod
    def over(cls, batches: Iterable[Codes], features: int) -> CodeSums:
        """Add up codes, on the device."""
        count = _zeros(HALVES)
        fired, total = _zeros(2, HALVES, features)
        gram = _zeros(HALVES, features, features)
        for codes in batches:
            for half, codes_FB in enumerate(codes):
                dense_BF = codes_FB.to_dense().T
                count[half] += len(dense_BF)
                fired[half] += codes_FB.crow_indices().diff()
                total[half] += dense_BF.sum(dim=0, dtype=torch.float64)
                gram[half] += codes_FB @ dense_BF
        return cls(count, fired, total, gram)


@dataclass(frozen=True)
class TargetSums:
    """Sums over one model's activations x and the codes f, by half, in float64."""

    total: Tensor
    """Sum of x, [2, d]."""
    square: Tensor
    """Sum of |x|^2, [2]."""
    cross: Tensor
    """Sum of f'x, [2, F, d]."""

    @classmethod
    def empty(cls, features: int, d: int) -> TargetSums:
        """Over no tokens yet, on the device."""
        return cls(_zeros(HALVES, d), _zeros(HALVES), _zeros(HALVES, features, d))

    def add(self, codes: Codes, acts_BD: Tensor, half_B: Tensor) -> None:
        """Take in codes, activations [tokens, d] and the tokens' half [tokens]."""
        for half, codes_FB in enumerate(codes):
            part_BD = acts_BD[half_B == half]
            self.total[half] += part_BD.sum(dim=0, dtype=torch.float64)
            self.square[half] += part_BD.double().square().sum()
            self.cross[half] += codes_FB @ part_BD


class Refit:
    """The regression on some of the features over some halves of the documents: factorised once, for every model.

    W = (F'F + ridge * mean(diag(F'F)))^-1 F'X, with codes and activations centred, so that the bias is free.
    """

    def __init__(self, codes: CodeSums, halves: list[int], features: NDArray[np.int64], ridge: float) -> None:
        """Raises StudyError if the Gram matrix is singular, which a ridge penalty mends."""
        self._halves, self._features = halves, torch.from_numpy(features)
        self._count = float(codes.count[halves].sum())
        self._mean_F = codes.total[halves].sum(dim=0)[self._features].to(device()) / self._count
        gram_FF = _zeros(len(features), len(features))
        for half in halves:
            gram_FF += codes.gram[half][self._features[:, None], self._features].to(device())
        gram_FF.addr_(self._mean_F, self._mean_F, alpha=-self._count)
        diagonal_F = gram_FF.diagonal()
        diagonal_F += ridge * diagonal_F.sum() / max(len(features), 1)
        self._factor_FF, failed = torch.linalg.cholesky_ex(gram_FF)
        if failed:
            raise StudyError(f"tracking.ridge: with {ridge:g} the codes' Gram matrix is singular; give a larger one")

    def rows(self, target: TargetSums) -> Tensor:
        """The features' decoder rows for a model, [features, d] on the device, in its normalised units.

        Normalised: the centred activations have root-mean-square norm sqrt(d) on these tokens.
        """
        mean_D = target.total[self._halves].sum(dim=0).to(device()) / self._count
        cross_FD = _zeros(len(self._features), len(mean_D))
        for half in self._halves:
            cross_FD += target.cross[half][self._features].to(device())
        cross_FD.addr_(self._mean_F, mean_D, alpha=-self._count)
        variance = target.square[self._halves].sum().to(device()) / self._count - mean_D.square().sum()
        rows_FD = torch.cholesky_solve(cross_FD, self._factor_FF)
        return rows_FD.mul_((len(mean_D) / variance).sqrt())


def cached(path: Path, compute: Callable[[], dict[str, Floats]]) -> dict[str, Floats]:
    """Arrays from a file, computed and written first if it is not there: one unit of a stage's work."""
    if not path.is_file():
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **compute())
    with np.load(path) as found:
        return dict(found)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64, device=device())
