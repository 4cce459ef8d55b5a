"""Sparse products on a GPU, in Triton: each output row is summed by one program, in one order.

So a product gives the same bits each time. Codes [B, F] are in compressed rows: `columns_N[ends_B1[b]:ends_B1[b + 1]]`
are row b's features, in ascending order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_WIDTH = 512
"""Numbers of a row that one program works on at a time."""
_SHARES = 4
"""Programs that share the places of a row."""


def times(
    ends_B1: Tensor, columns_N: Tensor, values_N: Tensor, matrix_FI: Tensor, add_to_BI: Tensor | None = None
) -> Tensor:
    """codes @ matrix, [B, I]; added to `add_to_BI`, in place, if that is given."""
    rows, width = len(ends_B1) - 1, matrix_FI.shape[1]
    out_BI = matrix_FI.new_empty(rows, width) if add_to_BI is None else add_to_BI
    block = _block(width)
    grid = (rows, triton.cdiv(width, block))
    _times[grid](
        ends_B1, columns_N, values_N.detach(), matrix_FI.detach(), out_BI, width, ADD=add_to_BI is not None, BLOCK=block
    )
    return out_BI


def dots(ends_B1: Tensor, columns_N: Tensor, left_BI: Tensor, right_FI: Tensor) -> Tensor:
    """left @ right^T at the pattern's places alone, [N]."""
    rows, width = left_BI.shape
    out_N = left_BI.new_empty(len(columns_N))
    _dots[(rows, _SHARES)](
        ends_B1, columns_N, left_BI.detach(), right_FI.detach(), out_N, width, SHARES=_SHARES, BLOCK=_block(width)
    )
    return out_N


def by_column(ends_B1: Tensor, columns_N: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """The pattern feature by feature: ends [F + 1], and the order of its places [N], rows ascending in a feature."""
    ends_F1 = torch.zeros(features + 1, dtype=torch.int64, device=columns_N.device)
    torch.cumsum(torch.bincount(columns_N, minlength=features), dim=0, out=ends_F1[1:])
    return ends_F1, torch.argsort(columns_N, stable=True)


def above(pre_BF: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor]:
    """Where pre > floor: ends [B + 1] and columns [N]."""
    batch, features = pre_BF.shape
    block = _block(features)
    blocks = triton.cdiv(features, block)
    floor_F = floor_F.to(torch.promote_types(pre_BF.dtype, torch.float32))
    ends_1 = torch.zeros(batch * blocks + 1, dtype=torch.int64, device=pre_BF.device)
    _count_above[(batch, blocks)](pre_BF, floor_F, ends_1, features, BLOCK=block)
    torch.cumsum(ends_1, dim=0, out=ends_1)
    columns_N = torch.empty(int(ends_1[-1]), dtype=torch.int64, device=pre_BF.device)
    _list_above[(batch, blocks)](pre_BF, floor_F, ends_1, columns_N, features, BLOCK=block)
    return ends_1[::blocks].contiguous(), columns_N


def _block(width: int) -> int:
    return min(_WIDTH, int(triton.next_power_of_2(width)))


@triton.jit  # type: ignore[untyped-decorator]
def _times(ends, columns, values, matrix, out, width, ADD: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    total = tl.zeros([BLOCK], dtype=out.dtype.element_ty)
    for n in range(tl.load(ends + row), tl.load(ends + row + 1)):
        column, value = tl.load(columns + n), tl.load(values + n)
        total += value * tl.load(matrix + column * width + at, mask=inside, other=0.0)
    if ADD:
        total += tl.load(out + row * width + at, mask=inside, other=0.0)
    tl.store(out + row * width + at, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _dots(ends, columns, left, right, out, width, SHARES: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    for n in range(tl.load(ends + row) + tl.program_id(1), tl.load(ends + row + 1), SHARES):
        column = tl.load(columns + n)
        total = tl.zeros([BLOCK], dtype=out.dtype.element_ty)
        for start in range(0, width, BLOCK):
            at = start + tl.arange(0, BLOCK)
            here = tl.load(left + row * width + at, mask=at < width, other=0.0)
            total += here * tl.load(right + column * width + at, mask=at < width, other=0.0)
        tl.store(out + n, tl.sum(total, axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def _count_above(pre, floor, ends, features, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """How many places of each block of a row are above, at the block's own place + 1 in `ends`."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    limit = tl.load(floor + at, mask=at < features, other=float("inf"))
    found = tl.load(pre + row * features + at, mask=at < features, other=0.0).to(limit.dtype) > limit
    tl.store(ends + row * tl.num_programs(1) + block + 1, tl.sum(found.to(tl.int64), axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def _list_above(pre, floor, ends, columns, features, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    limit = tl.load(floor + at, mask=at < features, other=float("inf"))
    found = tl.load(pre + row * features + at, mask=at < features, other=0.0).to(limit.dtype) > limit
    first = tl.load(ends + row * tl.num_programs(1) + block)
    place = first + tl.cumsum(found.to(tl.int64), axis=0) - 1
    tl.store(columns + place, at.to(tl.int64), mask=found)
