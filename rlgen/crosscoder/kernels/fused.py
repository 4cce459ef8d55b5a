"""On a GPU: an encoder's product and what of it is above a floor, in one kernel, in Triton.

Of the product, a bit a place goes to memory: 1/16 of bfloat16's traffic, which is written once and read twice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_WORD = 32
_LISTED = 1024
"""Places of a row that are listed at a time."""


class Tile(NamedTuple):
    """What one program computes of the product, how many terms at a time, and on what of the GPU."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


TILES = (Tile(128, 256, 64, 8, 3), Tile(128, 128, 64, 4, 4), Tile(64, 256, 64, 4, 3))
"""Which of them is fastest depends on the GPU and on the batch; the first one suits an H100 and large batches."""


def above(x_BI: Tensor, W_FI: Tensor, floor_F: Tensor, tile: Tile = TILES[0]) -> tuple[Tensor, Tensor]:
    """Where x @ W^T > floor, for x and W in bfloat16, summed in float32: ends [B + 1] and columns [N], ascending."""
    (batch, width), features = x_BI.shape, len(W_FI)
    words_BW = torch.empty(batch, triton.cdiv(features, _WORD), dtype=torch.int32, device=x_BI.device)
    ends_B1 = torch.zeros(batch + 1, dtype=torch.int64, device=x_BI.device)
    grid = (triton.cdiv(batch, tile.rows), triton.cdiv(features, tile.columns))
    _compare[grid](
        x_BI, W_FI, floor_F.float(), words_BW, ends_B1, batch, features, width,
        ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, WIDEN=not x_BI.is_cuda,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    torch.cumsum(ends_B1, dim=0, out=ends_B1)
    columns_N = torch.empty(int(ends_B1[-1]), dtype=torch.int64, device=x_BI.device)
    _list[(batch,)](words_BW, ends_B1, columns_N, features, BLOCK=_LISTED)
    return ends_B1, columns_N


@triton.jit  # type: ignore[untyped-decorator]
def _compare(  # type: ignore[no-untyped-def]
    x, weight, floor, words, ends, batch, features, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One bit a place, and in `ends` the number of ones of each row: a sum of integers, whatever their order.

    `WIDEN` is for the interpreter, which multiplies bfloat16's bits as integers.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for start in range(0, width, DEPTH):
        at = start + tl.arange(0, DEPTH)
        left_at, right_at = row[:, None] * width + at[None, :], column[None, :] * width + at[:, None]
        left = tl.load(x + left_at, mask=(row[:, None] < batch) & (at[None, :] < width), other=0.0)
        right = tl.load(weight + right_at, mask=(column[None, :] < features) & (at[:, None] < width), other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total)
    limit = tl.load(floor + column, mask=column < features, other=float("inf"))
    found = (total > limit[None, :]).to(tl.int32)
    bits = found << (tl.arange(0, COLUMNS) % 32)[None, :]
    word = tl.sum(tl.reshape(bits, [ROWS, COLUMNS // 32, 32]), axis=2)
    whole = (features + 31) // 32
    at = tl.program_id(1) * (COLUMNS // 32) + tl.arange(0, COLUMNS // 32)
    tl.store(words + row[:, None] * whole + at[None, :], word, mask=(row[:, None] < batch) & (at[None, :] < whole))
    tl.atomic_add(ends + row + 1, tl.sum(found, axis=1).to(tl.int64), mask=row < batch, sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator]
def _list(words, ends, columns, features, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(ends + row)
    for start in range(0, features, BLOCK):
        at = start + tl.arange(0, BLOCK)
        word = tl.load(words + row * ((features + 31) // 32) + at // 32, mask=at < features, other=0)
        found = (word >> (at % 32)) & 1
        tl.store(columns + place + tl.cumsum(found, axis=0) - 1, at.to(tl.int64), mask=found > 0)
        place += tl.sum(found, axis=0)
