"""Sparse codes: of B x F codes only ~k a token are not zero, so nothing else is computed, forwards or backwards.

Where so many are not zero that dense products are faster, as when an L1 fit begins, those are taken.
"""

from __future__ import annotations

import importlib
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

DENSE = 0.15
"""Share of active codes from which dense products are taken; on a CPU they were faster from 0.18 on, at N 3, d 256,
F 8,192 (`python tests/benchmarks/crosscoder.py crossover`). A share decides, no clock: a seed gives the same bits."""


def kernels_for(device: torch.device) -> ModuleType:
    """The products for a device: by numba on a CPU, by Triton on a GPU."""
    name = "cpu" if device.type == "cpu" else "gpu"
    return importlib.import_module(f"rlgen.crosscoder.kernels.{name}")  # numba takes a second to import


class Pattern:
    """Where codes [B, F] are not zero: `columns_N[ends_B1[b]:ends_B1[b + 1]]` are row b's features, ascending."""

    def __init__(self, ends_B1: Tensor, columns_N: Tensor, features: int) -> None:
        self.ends_B1, self.columns_N, self.features = ends_B1, columns_N, features

    @classmethod
    def of(cls, codes_BF: Tensor) -> Pattern:
        """Of dense codes: where they are not zero."""
        ends_B1 = codes_BF.new_zeros(len(codes_BF) + 1, dtype=torch.int64)
        torch.cumsum((codes_BF != 0).sum(dim=1), dim=0, out=ends_B1[1:])
        return cls(ends_B1, codes_BF.nonzero()[:, 1].contiguous(), codes_BF.shape[1])

    def __len__(self) -> int:
        return len(self.columns_N)

    @property
    def batch(self) -> int:
        """B."""
        return len(self.ends_B1) - 1

    @property
    def dense(self) -> bool:
        """Whether products with it are taken as dense ones."""
        return len(self) > DENSE * self.batch * self.features

    @cached_property
    def rows_N(self) -> Tensor:
        """The row of every place."""
        rows_B = torch.arange(self.batch, device=self.ends_B1.device)
        return rows_B.repeat_interleave(self.ends_B1.diff(), output_size=len(self))

    def keep(self, kept_N: Tensor) -> Pattern:
        """Some of its places."""
        before_N1 = self.ends_B1.new_zeros(len(self) + 1)
        torch.cumsum(kept_N, dim=0, out=before_N1[1:])
        return Pattern(before_N1[self.ends_B1], self.columns_N[kept_N], self.features)

    def times(self, values_N: Tensor, matrix_FI: Tensor) -> Tensor:
        """codes @ matrix, [B, I]."""
        if self.dense:
            return self._whole(values_N) @ matrix_FI
        found: Tensor = self._kernels.times(self.ends_B1, self.columns_N, values_N, matrix_FI)
        return found

    def transposed_times(self, values_N: Tensor, matrix_BI: Tensor, add_to_FI: Tensor | None = None) -> Tensor:
        """codes^T @ matrix, [F, I]; added to `add_to_FI`, in place, if that is given."""
        if self.dense:
            codes_FB = self._whole(values_N).T
            return codes_FB @ matrix_BI if add_to_FI is None else add_to_FI.addmm_(codes_FB, matrix_BI)
        ends_F1, order_N = self._by_column
        found: Tensor = self._kernels.times(ends_F1, self.rows_N[order_N], values_N[order_N], matrix_BI, add_to_FI)
        return found

    def dots(self, left_BI: Tensor, right_FI: Tensor) -> Tensor:
        """left @ right^T at the pattern's places alone, [N]."""
        if self.dense:
            return (left_BI @ right_FI.T)[self.rows_N, self.columns_N]
        found: Tensor = self._kernels.dots(self.ends_B1, self.columns_N, left_BI, right_FI)
        return found

    def _whole(self, values_N: Tensor) -> Tensor:
        codes_BF = values_N.new_zeros(self.batch, self.features)
        codes_BF[self.rows_N, self.columns_N] = values_N
        return codes_BF

    @property
    def _kernels(self) -> ModuleType:
        return kernels_for(self.columns_N.device)

    @cached_property
    def _by_column(self) -> tuple[Tensor, Tensor]:
        ends_F1, order_N = self._kernels.by_column(self.ends_B1, self.columns_N, self.features)
        return ends_F1, order_N


class _EncodeAt(Function):
    @staticmethod
    def forward(ctx: Any, values_N: Tensor, b_F: Tensor, W_FI: Tensor, x_BI: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x_BI)
        ctx.W_FI, ctx.b_F, ctx.pattern = W_FI, b_F, pattern
        return values_N.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None, None, None]:
        (x_BI,) = ctx.saved_tensors
        grad_N = grads[0].contiguous()
        _add_gradient(ctx.W_FI, ctx.pattern, grad_N, x_BI)
        grad_b_F = torch.zeros_like(ctx.b_F).index_add_(0, ctx.pattern.columns_N, grad_N)
        return None, grad_b_F, None, None, None


class _Decode(Function):
    @staticmethod
    def forward(ctx: Any, values_N: Tensor, W_FI: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values_N)
        ctx.W_FI, ctx.pattern = W_FI, pattern
        return pattern.times(values_N, W_FI.detach().flatten(1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (values_N,) = ctx.saved_tensors
        grad_BI = grads[0].contiguous()
        _add_gradient(ctx.W_FI, ctx.pattern, values_N, grad_BI)
        return ctx.pattern.dots(grad_BI, ctx.W_FI.detach().flatten(1)), None, None


def encode_at(values_N: Tensor, x_BI: Tensor, W_FI: Tensor, b_F: Tensor, pattern: Pattern) -> Tensor:
    """`values_N` = (x @ W^T + b) at the pattern's places, with its gradients. W may have more dimensions, [F, ...].

    W's gradient is added to `W.grad` in place, feature by feature, so the full matrix is written once; `backward`
    must be called on the loss (`torch.autograd.grad` does not see it).
    """
    found: Tensor = _EncodeAt.apply(values_N, b_F, W_FI, x_BI, pattern)  # type: ignore[no-untyped-call]
    return found


def decode_from(values_N: Tensor, W_FI: Tensor, pattern: Pattern) -> Tensor:
    """codes @ W, [B, I], for codes given by a pattern and its values; W's gradient as in `encode_at`."""
    found: Tensor = _Decode.apply(values_N, W_FI, pattern)  # type: ignore[no-untyped-call]
    return found


def _add_gradient(W_FI: Tensor, pattern: Pattern, values_N: Tensor, matrix_BI: Tensor) -> None:
    if W_FI.grad is None:
        W_FI.grad = torch.zeros_like(W_FI)
    pattern.transposed_times(values_N, matrix_BI, W_FI.grad.flatten(1))
