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
    return _dots_of(ends_B1, columns_N, left_BI, right_FI, None)


def dots_above(ends_B1: Tensor, columns_N: Tensor, left_BI: Tensor, right_FI: Tensor, floor_F: Tensor) -> Tensor:
    """As `dots`, [N], but -inf where the product of left and right in bfloat16 does not exceed a floor.

    That product is summed in float32 in one order, whoever has found the places; it costs no memory traffic.
    """
    return _dots_of(ends_B1, columns_N, left_BI, right_FI, floor_F.float())


def _dots_of(ends_B1: Tensor, columns_N: Tensor, left_BI: Tensor, right_FI: Tensor, floor_F: Tensor | None) -> Tensor:
    rows, width = left_BI.shape
    left_BI, right_FI, out_N = left_BI.detach(), right_FI.detach(), left_BI.new_empty(len(columns_N))
    _dots[(rows, _SHARES)](
        ends_B1, columns_N, left_BI, right_FI, floor_F, out_N, width,
        ABOVE=floor_F is not None, SHARES=_SHARES, BLOCK=_block(width),
    )  # fmt: skip
    return out_N


def round_rows(matrix_FI: Tensor, out_FI: Tensor) -> Tensor:
    """Rounds a matrix to bfloat16, into `out_FI`; the norms of its rounded rows, [F]: one pass for both."""
    rows, width = matrix_FI.shape
    norm_F = torch.empty(rows, dtype=torch.float32, device=matrix_FI.device)
    _round_rows[(rows,)](matrix_FI.detach(), out_FI.view(torch.int16), norm_F, width, BLOCK=_block(width))
    return norm_F


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


@triton.jit
def _rounded(value):  # type: ignore[no-untyped-def]
    """float32 rounded to the nearest bfloat16, by its bits: the interpreter's own conversion cuts off instead."""
    bits = value.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _dots(  # type: ignore[no-untyped-def]
    ends, columns, left, right, floor, out, width,
    ABOVE: tl.constexpr, SHARES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    for n in range(tl.load(ends + row) + tl.program_id(1), tl.load(ends + row + 1), SHARES):
        column = tl.load(columns + n)
        total = tl.zeros([BLOCK], dtype=out.dtype.element_ty)
        rough = tl.zeros([BLOCK], dtype=tl.float32)
        for start in range(0, width, BLOCK):
            at = start + tl.arange(0, BLOCK)
            here = tl.load(left + row * width + at, mask=at < width, other=0.0)
            there = tl.load(right + column * width + at, mask=at < width, other=0.0)
            total += here * there
            if ABOVE:
                rough += _rounded(here) * _rounded(there)
        found = tl.sum(total, axis=0)
        if ABOVE:
            found = tl.where(tl.sum(rough, axis=0) > tl.load(floor + column), found, -float("inf"))
        tl.store(out + n, found)


@triton.jit  # type: ignore[untyped-decorator]
def _round_rows(matrix, out, norm, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = _rounded(tl.load(matrix + row * width + at, mask=at < width, other=0.0))
        half = (value.to(tl.int32, bitcast=True) >> 16).to(tl.int16)
        tl.store(out + row * width + at, half, mask=at < width)
        total += value * value
    tl.store(norm + row, tl.sqrt(tl.sum(total, axis=0)))


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
