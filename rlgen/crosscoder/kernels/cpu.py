"""Sparse products on a CPU, compiled by numba: each output row is summed by one thread, in one order.

So results do not depend on the number of threads. Compiled code is cached beside this file, or in the user's cache.
Codes [B, F] are in compressed rows: `columns_N[ends_B1[b]:ends_B1[b + 1]]` are row b's features, in ascending order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import config, get_num_threads, njit, prange, set_num_threads, types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

_WORD = 64


def times(
    ends_B1: Tensor, columns_N: Tensor, values_N: Tensor, matrix_FI: Tensor, add_to_BI: Tensor | None = None
) -> Tensor:
    """codes @ matrix, [B, I]; added to `add_to_BI`, in place, if that is given."""
    _threads()
    out_BI = add_to_BI
    if out_BI is None:
        out_BI = matrix_FI.new_empty(len(ends_B1) - 1, matrix_FI.shape[1])
    ends, columns, values, matrix, out = _arrays(ends_B1, columns_N, values_N, matrix_FI, out_BI)
    _times(ends, columns, values, matrix, out, add_to_BI is not None)
    return out_BI


def dots(ends_B1: Tensor, columns_N: Tensor, left_BI: Tensor, right_FI: Tensor) -> Tensor:
    """left @ right^T at the pattern's places alone, [N]."""
    _threads()
    out_N = left_BI.new_empty(len(columns_N))
    _dots(*_arrays(ends_B1, columns_N, left_BI, right_FI, out_N))
    return out_N


def by_column(ends_B1: Tensor, columns_N: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """The pattern feature by feature: ends [F + 1], and the order of its places [N], rows ascending in a feature."""
    ends_F1, order_N = torch.zeros(features + 1, dtype=torch.int64), torch.empty_like(columns_N)
    _by_column(columns_N.numpy(), ends_F1.numpy(), order_N.numpy())
    return ends_F1, order_N


def above(pre_BF: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor]:
    """Where pre > floor: ends [B + 1] and columns [N].

    For `pre` in bfloat16 the floor is rounded down to one, so that no place is missed.
    """
    _threads()
    pre, floor = _comparable(pre_BF, floor_F)
    batch, features = pre.shape
    words = np.empty((batch, -(-features // _WORD)), dtype=np.uint64)
    ends_B1 = torch.zeros(batch + 1, dtype=torch.int64)
    ends = ends_B1.numpy()
    _compare(pre, floor, words, ends)
    np.cumsum(ends, out=ends)
    columns_N = torch.empty(int(ends[-1]), dtype=torch.int64)
    _unpack(words, ends, columns_N.numpy())
    return ends_B1, columns_N


def _comparable(pre_BF: Tensor, floor_F: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays that numba can compare: bfloat16 as its bits, the floor's made to sort as numbers do."""
    if pre_BF.dtype != torch.bfloat16:
        return pre_BF.numpy(), floor_F.to(pre_BF.dtype).numpy()
    bits_F = floor_F.float().contiguous().view(torch.int32)
    down_F = torch.where(bits_F < 0, bits_F + 0xFFFF, bits_F) >> 16
    down_F = torch.where(down_F < 0, down_F ^ 0x7FFF, down_F)
    return pre_BF.view(torch.int16).numpy(), down_F.to(torch.int16).numpy()


def _arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    return [tensor.detach().numpy() for tensor in tensors]


def _threads() -> None:
    """As many threads as torch uses. Numba's first call starts one a core, and has torch use them all: undone here."""
    wanted = torch.get_num_threads()
    if get_num_threads() != wanted:
        set_num_threads(min(wanted, config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        torch.set_num_threads(wanted)


@njit(parallel=True, fastmath=True, cache=True)
def _times(ends, columns, values, matrix, out, add):  # type: ignore[no-untyped-def]
    for b in prange(len(ends) - 1):
        row = out[b]
        if not add:
            row[:] = 0
        n, stop = ends[b], ends[b + 1]
        while n + 4 <= stop:  # four at once: their rows come from memory at the same time
            v0, v1, v2, v3 = values[n], values[n + 1], values[n + 2], values[n + 3]
            r0, r1 = matrix[columns[n]], matrix[columns[n + 1]]
            r2, r3 = matrix[columns[n + 2]], matrix[columns[n + 3]]
            for i in range(len(row)):
                row[i] += v0 * r0[i] + v1 * r1[i] + v2 * r2[i] + v3 * r3[i]
            n += 4
        while n < stop:
            v0, r0 = values[n], matrix[columns[n]]
            for i in range(len(row)):
                row[i] += v0 * r0[i]
            n += 1


@njit(parallel=True, fastmath=True, cache=True)
def _dots(ends, columns, left, right, out):  # type: ignore[no-untyped-def]
    for b in prange(len(ends) - 1):
        row = left[b]
        n, stop = ends[b], ends[b + 1]
        while n + 4 <= stop:
            r0, r1 = right[columns[n]], right[columns[n + 1]]
            r2, r3 = right[columns[n + 2]], right[columns[n + 3]]
            t0 = t1 = t2 = t3 = row[0] * 0
            for i in range(len(row)):
                t0 += row[i] * r0[i]
                t1 += row[i] * r1[i]
                t2 += row[i] * r2[i]
                t3 += row[i] * r3[i]
            out[n], out[n + 1], out[n + 2], out[n + 3] = t0, t1, t2, t3
            n += 4
        while n < stop:
            r0, t0 = right[columns[n]], row[0] * 0
            for i in range(len(row)):
                t0 += row[i] * r0[i]
            out[n] = t0
            n += 1


@njit(cache=True)
def _by_column(columns, ends, order):  # type: ignore[no-untyped-def]
    for column in columns:
        ends[column + 1] += 1
    for f in range(len(ends) - 1):
        ends[f + 1] += ends[f]
    at = ends[:-1].copy()
    for n in range(len(columns)):
        order[at[columns[n]]] = n
        at[columns[n]] += 1


def _sortable(value: Any) -> Any:
    """A bfloat16's bits (int16) as an integer that sorts like it; other numbers as they are."""
    raise NotImplementedError("for compiled code only")


@overload(_sortable, inline="always")
def _sortable_of(value):  # type: ignore[no-untyped-def]
    if isinstance(value, types.Integer):
        return lambda value: value ^ ((value >> 15) & 0x7FFF)
    return lambda value: value


@njit(parallel=True, cache=True)
def _compare(pre, floor, words, ends):  # type: ignore[no-untyped-def]
    """One bit a place, and in `ends` the number of ones of each row."""
    features = pre.shape[1]
    whole = features // _WORD
    for b in prange(pre.shape[0]):
        count = 0
        for w in range(words.shape[1]):
            bits = np.uint64(0)
            if w < whole:
                for j in range(_WORD):
                    if _sortable(pre[b, w * _WORD + j]) > floor[w * _WORD + j]:
                        bits |= np.uint64(1) << np.uint64(j)
            else:
                for j in range(features - whole * _WORD):
                    if _sortable(pre[b, w * _WORD + j]) > floor[w * _WORD + j]:
                        bits |= np.uint64(1) << np.uint64(j)
            words[b, w] = bits
            while bits:
                bits &= bits - np.uint64(1)
                count += 1
        ends[b + 1] = count


@njit(parallel=True, cache=True)
def _unpack(words, ends, columns):  # type: ignore[no-untyped-def]
    for b in prange(words.shape[0]):
        n = ends[b]
        for w in range(words.shape[1]):
            bits, at = words[b, w], w * _WORD
            while bits:
                if bits & np.uint64(0xFF):
                    if bits & np.uint64(1):
                        columns[n] = at
                        n += 1
                    bits, at = bits >> np.uint64(1), at + 1
                else:
                    bits, at = bits >> np.uint64(8), at + 8
