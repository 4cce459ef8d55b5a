"""Which codes of a batch count, without computing the others exactly.

The encoder's product is the one dense step that is left. It is taken in bfloat16 where the hardware is fast at that,
only to find the places that may count; at these the pre-activations are computed again in full precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlgen.crosscoder.model import Crosscoder
from rlgen.crosscoder.sparse import Pattern, encode_at, kernels_for


class Encoder:
    """A crosscoder's encoder over one batch after the other: `read` a batch, then ask for its codes."""

    def __init__(self, crosscoder: Crosscoder) -> None:
        self.crosscoder = crosscoder
        self._fast = _fast_bfloat16(crosscoder.W_enc)
        self._W_FI = crosscoder.W_enc.detach().flatten(1)
        if self._fast:
            self._W_FI = self._W_FI.bfloat16()
        self._pre_BF = self._W_FI.new_empty(0)
        self._x_BI = self._W_FI.new_empty(0)

    @property
    def batch(self) -> Tensor:
        """Tokens of the batch."""
        return torch.tensor(len(self._x_BI), device=self._x_BI.device)

    def refresh(self) -> None:
        """Take note that the weights have changed."""
        if self._fast:
            self._W_FI.copy_(self.crosscoder.W_enc.detach().flatten(1))

    def read(self, x_BI: Tensor) -> None:
        """Take in a batch, in the crosscoder's own scale."""
        self._x_BI = x_BI
        shape = (len(x_BI), len(self._W_FI))
        if self._pre_BF.shape != shape:
            self._pre_BF = self._W_FI.new_empty(shape)
        torch.mm(x_BI.to(self._W_FI.dtype), self._W_FI.T, out=self._pre_BF)

    def above(self, floor_F: Tensor) -> tuple[Pattern, Tensor]:
        """Where pre-activations exceed a floor, up to the rounding of bfloat16, and what they exactly are, [N]."""
        coder = self.crosscoder
        kernels = kernels_for(self._x_BI.device)
        ends_B1, columns_N = kernels.above(self._pre_BF, (floor_F - coder.b_enc).detach())
        pattern = Pattern(ends_B1, columns_N, coder.config.features)
        return pattern, self._exactly(pattern)

    def roughly(self) -> Tensor:
        """All pre-activations as they were found, [B, F]: a dense matrix, for where nothing better is known."""
        return self._pre_BF.to(self.crosscoder.b_enc.dtype) + self.crosscoder.b_enc.detach()

    def at(self, pattern: Pattern) -> Tensor:
        """Exact pre-activations at a pattern, [N]."""
        return self._exactly(pattern)

    def differentiable(self, pre_N: Tensor, pattern: Pattern) -> Tensor:
        """Pre-activations at a pattern, as found before, with their gradients to the encoder."""
        return encode_at(pre_N, self._x_BI, self.crosscoder.W_enc, self.crosscoder.b_enc, pattern)

    def _exactly(self, pattern: Pattern) -> Tensor:
        coder = self.crosscoder
        dots_N = pattern.dots(self._x_BI, coder.W_enc.detach().flatten(1))
        return dots_N + coder.b_enc.detach()[pattern.columns_N]


def _fast_bfloat16(weight: Tensor) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32; float64 is for tests, where nothing is rounded."""
    if weight.dtype != torch.float32:
        return False
    if weight.device.type == "cuda":
        return True
    cpu = torch.cpu
    return bool(cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported())
