"""Decoder refit: another model's decoder for a frozen code, by ridge regression in closed form (METHOD: tracking, a).

All sums are streamed over the tokens and kept apart for two halves of the documents, so that one pass gives the
refit on all tokens and on each half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    """Sums over the codes f, by half: what every model's refit shares."""

    count: Floats
    """Tokens, [2]."""
    fired: Floats
    """Tokens on which a feature is active, [2, F]."""
    total: Floats
    """Sum of f, [2, F]."""
    gram: Floats
    """Sum of f'f, [2, F, F]."""

    @classmethod
    def over(cls, batches: Iterable[Codes], features: int) -> CodeSums:
        """Add up codes. Memory: 2 F^2 doubles."""
        fired, total = torch.zeros(2, HALVES, features, dtype=torch.float64)
        gram = torch.zeros(HALVES, features, features, dtype=torch.float64)
        count = torch.zeros(HALVES, dtype=torch.float64)
        for codes in batches:
            for half, codes_FB in enumerate(codes):
                dense_BF = codes_FB.to_dense().T
                count[half] += len(dense_BF)
                fired[half] += codes_FB.crow_indices().diff().cpu()
                total[half] += dense_BF.sum(dim=0, dtype=torch.float64).cpu()
                gram[half] += (codes_FB @ dense_BF).cpu()
        return cls(count.numpy(), fired.numpy(), total.numpy(), gram.numpy())


@dataclass(frozen=True)
class TargetSums:
    """Sums over one model's activations x and the codes f, by half."""

    total: Floats
    """Sum of x, [2, d]."""
    square: Floats
    """Sum of |x|^2, [2]."""
    cross: Floats
    """Sum of f'x, [2, F, d]."""

    @classmethod
    def over(cls, batches: Iterable[tuple[Codes, Tensor, Tensor]], features: int, d: int) -> TargetSums:
        """Add up codes, activations [tokens, d] and their half [tokens]."""
        total = torch.zeros(HALVES, d, dtype=torch.float64)
        square = torch.zeros(HALVES, dtype=torch.float64)
        cross = torch.zeros(HALVES, features, d, dtype=torch.float64)
        for codes, acts_BD, half_B in batches:
            for half, codes_FB in enumerate(codes):
                part_BD = acts_BD[half_B == half]
                total[half] += part_BD.sum(dim=0, dtype=torch.float64).cpu()
                square[half] += part_BD.double().square().sum().cpu()
                cross[half] += (codes_FB @ part_BD).cpu()
        return cls(total.numpy(), square.numpy(), cross.numpy())


def refit(codes: CodeSums, target: TargetSums, halves: list[int], features: NDArray[np.int64], ridge: float) -> Floats:
    """The decoder rows of `features` for the target model, [features, d], in its normalised units.

    W = (F'F + ridge * mean(diag(F'F)))^-1 F'X over the tokens of `halves`, with codes and activations centred, so
    that the bias is free. Normalised: the centred activations have root-mean-square norm sqrt(d) on these tokens.
    """
    count = codes.count[halves].sum()
    mean_F = codes.total[halves].sum(axis=0)[features] / count
    mean_D = target.total[halves].sum(axis=0) / count
    gram_FF = codes.gram[halves].sum(axis=0)[np.ix_(features, features)] - count * np.outer(mean_F, mean_F)
    cross_FD = target.cross[halves].sum(axis=0)[features] - count * np.outer(mean_F, mean_D)
    penalty = ridge * np.trace(gram_FF) / max(len(features), 1)
    rows_FD: Floats = np.linalg.solve(gram_FF + penalty * np.eye(len(features)), cross_FD)
    variance = target.square[halves].sum() / count - (mean_D**2).sum()
    scaled_FD: Floats = rows_FD * np.sqrt(len(mean_D) / variance)
    return scaled_FD


def cached(path: Path, compute: Callable[[], dict[str, Floats]]) -> dict[str, Floats]:
    """Arrays from a file, computed and written first if it is not there: one unit of a stage's work."""
    if not path.is_file():
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **compute())
    with np.load(path) as found:
        return dict(found)
