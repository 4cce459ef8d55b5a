"""Which codes of a batch count, without computing the others exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from rlgen.crosscoder.candidates import candidates_of
from rlgen.crosscoder.model import Crosscoder
from rlgen.crosscoder.sparse import Pattern, encode_at


class Encoder:
    """A crosscoder's encoder over one batch after the other: `read` a batch, then ask for its codes."""

    def __init__(self, crosscoder: Crosscoder) -> None:
        self.crosscoder = crosscoder
        self._W_FI = crosscoder.W_enc.detach().flatten(1)
        self._candidates = candidates_of(self._W_FI)
        self._x_BI = self._W_FI.new_empty(0)

    @property
    def batch(self) -> Tensor:
        """Tokens of the batch."""
        return torch.tensor(len(self._x_BI), device=self._x_BI.device)

    def refresh(self) -> None:
        """Take note that the weights have changed."""
        self._candidates.refresh()

    def read(self, x_BI: Tensor) -> None:
        """Take in a batch, in the crosscoder's own scale."""
        self._x_BI = x_BI
        self._candidates.read(x_BI)

    def above(self, floor_F: Tensor) -> tuple[Pattern, Tensor]:
        """Where pre-activations exceed a floor, up to the rounding of bfloat16, and what they exactly are, [N].

        They may be below the floor or -inf: these are not wanted.
        """
        pattern, dots_N = self._candidates.above((floor_F - self.crosscoder.b_enc).detach())
        return pattern, self._biased(dots_N, pattern)

    def roughly(self) -> Tensor:
        """All pre-activations as they were found, [B, F]: a dense matrix, for where nothing better is known."""
        bias_F = self.crosscoder.b_enc.detach()
        return self._candidates.product().to(bias_F.dtype) + bias_F

    def at(self, pattern: Pattern) -> Tensor:
        """Exact pre-activations at a pattern, [N]."""
        return self._biased(pattern.dots(self._x_BI, self._W_FI), pattern)

    def differentiable(self, pre_N: Tensor, pattern: Pattern) -> Tensor:
        """Pre-activations at a pattern, as found before, with their gradients to the encoder."""
        return encode_at(pre_N, self._x_BI, self.crosscoder.W_enc, self.crosscoder.b_enc, pattern)

    def _biased(self, dots_N: Tensor, pattern: Pattern) -> Tensor:
        return dots_N + self.crosscoder.b_enc.detach()[pattern.columns_N]
