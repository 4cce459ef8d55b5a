"""Which features are active on which tokens (METHOD section 4).

A score is a code times the sum over models of its decoder's norms: it does not change when a code is doubled and its
decoder halved. `batch_topk` takes the highest scores of a batch, `topk` those of each token, `jumprelu` those above a
learnt threshold of their feature, `relu_l1` all that are positive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from rlgen.crosscoder.encoder import Encoder
from rlgen.crosscoder.mesh import Mesh
from rlgen.crosscoder.sparse import Pattern
from rlgen.study.sections import Crosscoder as CrosscoderSettings

_FLOOR = 0.85
"""Candidates have at least this share of the limit of the batch before: limits move slowly."""
_MARGIN = 1.03
"""A limit must exceed the candidates' floor by so much, or bfloat16's rounding may have hidden some above it."""
_FEW = 4
"""Where no more than so many times the wanted codes are possible, all are candidates."""
_SPARE = 8
"""More candidates a token than are wanted (topk), for the same reason."""


@dataclass
class Active:
    """The active codes of a batch."""

    pattern: Pattern
    codes_N: Tensor
    """Their values, with gradients; some may be 0 (jumprelu, just below a threshold)."""
    limit: Tensor | None = None
    """The lowest score that was taken (batch_topk, topk: mean over tokens)."""
    penalty: Tensor | None = None
    """Sum over tokens of what sparsity costs, its weight included (relu_l1, jumprelu)."""


class Sparsity(ABC):
    """One way to choose active features."""

    def __init__(self, settings: CrosscoderSettings, mesh: Mesh) -> None:
        self.settings, self.mesh = settings, mesh
        self.guesses: dict[str, float] = {}
        """What is remembered from batch to batch; part of the training state."""

    @abstractmethod
    def __call__(self, encoder: Encoder, weight_F: Tensor, tokens: int, warm: float) -> Active:
        """The active codes of the batch that `encoder` has read.

        `weight_F` are the sums of decoder norms, with gradients; `tokens` counts the batch over all processes; `warm`
        in [0, 1] weighs penalties.
        """


class BatchTopK(Sparsity):
    """The B * k highest positive scores of the batch (2412.06410; for crosscoders 2504.02922)."""

    def __call__(self, encoder: Encoder, weight_F: Tensor, tokens: int, warm: float) -> Active:
        return self.highest("all", encoder, weight_F.detach(), tokens * self.settings.k)

    def highest(self, name: str, encoder: Encoder, weight_F: Tensor, wanted: int) -> Active:
        """The `wanted` highest positive scores over all processes; features of weight 0 are left out.

        Of equal scores at the limit all are taken. `name` says where the limit is remembered.
        """
        for floor in self._floors(name, encoder, weight_F, wanted):
            pattern, pre_N = encoder.above(torch.where(weight_F > 0, floor / weight_F, torch.inf))
            score_N = pre_N * weight_F[pattern.columns_N]
            everyones_N = self.mesh.gather(score_N[score_N > floor])
            limit = _kth_highest(everyones_N, wanted)
            if len(everyones_N) >= wanted and float(limit) >= _MARGIN * floor:
                break
        self.guesses[name] = float(limit)
        kept_N = (score_N >= limit) & (score_N > 0)
        pattern = pattern.keep(kept_N)
        return Active(pattern, encoder.differentiable(pre_N[kept_N], pattern), limit)

    def _floors(self, name: str, encoder: Encoder, weight_F: Tensor, wanted: int) -> Iterator[float]:
        """Scores above which candidates are looked for, until one is low enough; 0 always is."""
        possible = int(self.mesh.features.sum((weight_F > 0).sum())) * int(self.mesh.data.sum(encoder.batch))
        if possible > _FEW * wanted:
            if self.guesses.get(name):
                yield _FLOOR * self.guesses[name]
            yield self._rough_floor(encoder, weight_F, wanted)
        yield 0.0

    def _rough_floor(self, encoder: Encoder, weight_F: Tensor, wanted: int) -> float:
        """Somewhat below the limit, from all scores of the batch: slow, for the first batch and after a jump."""
        rough_N = (encoder.roughly() * weight_F).flatten()
        # of each process' scores no more than `wanted` can be among the highest
        highest_N = rough_N.topk(min(wanted, len(rough_N)), sorted=False).values
        everyones_N = self.mesh.gather(highest_N[highest_N > 0])
        return _FLOOR * float(_kth_highest(everyones_N, wanted)) if len(everyones_N) >= wanted else 0.0


class TopK(Sparsity):
    """The k highest positive scores of each token (2406.04093)."""

    def __call__(self, encoder: Encoder, weight_F: Tensor, tokens: int, warm: float) -> Active:
        weight_F = weight_F.detach()
        pattern = self._candidates(encoder, weight_F)
        pre_N = encoder.at(pattern)
        score_BK = (pre_N * weight_F[pattern.columns_N]).view(pattern.batch, -1)
        everyones_BK = self.mesh.features.gather(score_BK.T.contiguous()).T
        limit_B = everyones_BK.topk(min(self.settings.k, everyones_BK.shape[1])).values[:, -1].clamp(min=0)
        kept_N = ((score_BK >= limit_B[:, None]) & (score_BK > 0)).flatten()
        pattern = pattern.keep(kept_N)
        return Active(pattern, encoder.differentiable(pre_N[kept_N], pattern), limit_B.mean())

    def _candidates(self, encoder: Encoder, weight_F: Tensor) -> Pattern:
        """Equally many of every token."""
        rough_BF = encoder.roughly() * weight_F
        count = min(self.settings.k + _SPARE, rough_BF.shape[1])
        columns_BK = rough_BF.topk(count, sorted=False).indices.sort(dim=1).values
        ends_B1 = torch.arange(len(rough_BF) + 1, device=rough_BF.device) * count
        return Pattern(ends_B1, columns_BK.flatten(), rough_BF.shape[1])


class ReluL1(Sparsity):
    """All positive codes, at a price of their scores (the paper)."""

    def __call__(self, encoder: Encoder, weight_F: Tensor, tokens: int, warm: float) -> Active:
        pattern, pre_N = encoder.above(torch.zeros_like(weight_F))
        kept_N = pre_N > 0
        pattern = pattern.keep(kept_N)
        codes_N = encoder.differentiable(pre_N[kept_N], pattern)
        penalty = warm * self.settings.l1 * (codes_N * weight_F[pattern.columns_N]).sum()
        return Active(pattern, codes_N, penalty=penalty)


class JumpReLU(Sparsity):
    """Codes whose score exceeds their feature's threshold, which learns by straight-through estimators (2407.14435)."""

    def __call__(self, encoder: Encoder, weight_F: Tensor, tokens: int, warm: float) -> Active:
        weight_F, coder = weight_F.detach(), encoder.crosscoder
        width, threshold_F = coder.bandwidth, coder.log_threshold.exp()
        floor_F = torch.where(weight_F > 0, (threshold_F.detach() - width / 2) / weight_F, torch.inf)
        pattern, pre_N = encoder.above(floor_F)
        near_N = pre_N > floor_F[pattern.columns_N]
        pattern = pattern.keep(near_N)
        pre_N = encoder.differentiable(pre_N[near_N], pattern)
        weight_N, threshold_N = weight_F[pattern.columns_N], threshold_F[pattern.columns_N]
        codes_N, active_N = _Jump.apply(pre_N, weight_N, threshold_N, width)  # type: ignore[no-untyped-call]
        penalty = warm * self.settings.l0_weight * active_N.sum()
        return Active(pattern, codes_N, penalty=penalty)


class _Jump(Function):
    """(z, w, theta) -> z H(z w - theta), H(z w - theta); H has a rectangle of some width for its derivative."""

    @staticmethod
    def forward(ctx: Any, pre_N: Tensor, weight_N: Tensor, threshold_N: Tensor, width: float) -> tuple[Tensor, Tensor]:
        distance_N = pre_N * weight_N - threshold_N
        active_N = (distance_N > 0).to(pre_N.dtype)
        near_N = (distance_N.abs() < width / 2).to(pre_N.dtype) / width
        ctx.save_for_backward(active_N, near_N, threshold_N / weight_N)
        return pre_N * active_N, active_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, None]:
        active_N, near_N, edge_N = ctx.saved_tensors
        by_code_N, by_active_N = grads
        return by_code_N * active_N, None, -near_N * (by_code_N * edge_N + by_active_N), None


def _kth_highest(values_N: Tensor, k: int) -> Tensor:
    """The k-th highest of them, or the lowest if there are fewer; 0 if there are none."""
    if len(values_N) >= k:
        return torch.kthvalue(values_N, len(values_N) - k + 1).values
    return values_N.min() if len(values_N) else values_N.new_zeros(())


def sparsity_of(settings: CrosscoderSettings, mesh: Mesh) -> Sparsity:
    """The one that the settings ask for."""
    kinds: dict[str, Callable[[CrosscoderSettings, Mesh], Sparsity]] = {
        "batch_topk": BatchTopK,
        "topk": TopK,
        "jumprelu": JumpReLU,
        "relu_l1": ReluL1,
    }
    return kinds[settings.sparsity](settings, mesh)
