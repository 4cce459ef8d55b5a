"""Stores to shuffled, aligned batches: deterministic, each token once an epoch, resumable at the exact batch.

An epoch is a random order of all chunks, cut into windows that fit the buffer; a window's tokens are read from
disk together and shuffled among each other. The stream of tokens so defined depends on the seed alone, and its
n-th batch can be made without the ones before it: so the number of the next batch is all the state there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.activations.store import Joined, StoreReader
from rlgen.stage import derive_seed

BUFFER_BYTES = 1 << 29
"""Memory for the window that batches are drawn from, in the stores' precision."""
STATISTICS_TOKENS = 1 << 20
"""Medians, means and scales are taken over about so many tokens at most, in chunks evenly spread over the store."""


@dataclass(frozen=True)
class Statistics:
    """What activations are normalised by, over the tokens that are kept; chunks are summed up in float64."""

    mean_MD: Tensor
    scale_M: Tensor
    """(x - mean) * scale has a mean norm of sqrt(d)."""
    variance_M: Tensor
    """E |x_m - mean|^2."""
    delta_variance_M: Tensor
    """The same of x_m - x_reference; 0 for the reference."""


@dataclass
class _Window:
    """Chunks of one epoch that are in memory together."""

    key: tuple[int, int]
    acts_NMD: Tensor
    order_N: NDArray[np.int64]


class Loader:
    """Batches [batch, models, d] float32 of the joined stores' activations at one layer.

    A batch is `batch_size` tokens over all ranks (the last one may be smaller); rank r of `world` is given every
    `world`-th of them. `epochs` may be a fraction. Tokens are dropped whose norm in any model exceeds
    `outlier_norm` times that model's median norm.
    """

    def __init__(
        self,
        joined: Joined,
        layer: int,
        batch_size: int,
        seed: int,
        epochs: float = 1.0,
        outlier_norm: float = math.inf,
        rank: int = 0,
        world: int = 1,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self.joined, self.layer, self.batch_size, self.seed = joined, layer, batch_size, seed
        self.rank, self.world = rank, world
        self._blocks = joined.blocks()
        self.medians = [_median(reader, layer, self._blocks) for reader in joined.readers]
        """Median norm of every model's activations."""
        self._dropped = _outliers(joined, layer, outlier_norm, self.medians)
        edges = np.searchsorted(self._dropped, np.array(self._blocks))
        self._kept_in_block = np.diff(np.array(self._blocks), axis=1)[:, 0] - np.diff(edges, axis=1)[:, 0]
        self.kept_tokens = int(self._kept_in_block.sum())
        """Tokens of an epoch."""
        largest = max(stop - start for start, stop in self._blocks)
        itemsize = 2 if joined.dtype == "bfloat16" else 4
        self._blocks_in_window = max(1, buffer_bytes // (largest * len(joined.models) * joined.d * itemsize))
        self.total_tokens = round(epochs * self.kept_tokens)
        """Tokens over all epochs and ranks."""
        self.step = 0
        """Batches given so far."""
        self._window: _Window | None = None

    def __len__(self) -> int:
        """Batches over all epochs."""
        return -(-self.total_tokens // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        """From the next batch to the last."""
        while self.step < len(self):
            batch_BMD = self._batch(self.step)
            self.step += 1
            yield batch_BMD

    def state_dict(self) -> dict[str, int]:
        """All that it takes to go on with the next batch."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the loader was that gave `state`; it must have had the same arguments, but for the rank."""
        self.step = state["step"]

    def statistics(self, reference: int = 0) -> Statistics:
        """Means, scales and variances; differences are taken to the model at slot `reference`."""
        blocks = _spread(self._blocks)
        sums = torch.zeros(len(self.joined.models), self.joined.d, dtype=torch.float64)
        count = 0
        for index in blocks:
            acts_NMD = self._read(index).float()
            sums += acts_NMD.sum(dim=0)
            count += len(acts_NMD)
        mean_MD = sums / count
        centre_MD = mean_MD.float()
        norm_M, variance_M, delta_M = torch.zeros(3, len(sums), dtype=torch.float64)
        for index in blocks:
            centred_NMD = self._read(index).float() - centre_MD
            squares_NM = centred_NMD.square().sum(dim=-1).double()
            norm_M += squares_NM.sqrt().sum(dim=0)
            variance_M += squares_NM.sum(dim=0)
            delta_NMD = centred_NMD - centred_NMD[:, reference : reference + 1]
            delta_M += delta_NMD.square().sum(dim=-1).double().sum(dim=0)
        return Statistics(mean_MD, math.sqrt(self.joined.d) * count / norm_M, variance_M / count, delta_M / count)

    @cached_property
    def _all_statistics(self) -> Statistics:
        return self.statistics()

    @property
    def mean(self) -> Tensor:
        """Mean activation over the tokens kept, [models, d] float64."""
        return self._all_statistics.mean_MD

    @property
    def scale(self) -> Tensor:
        """What gives centred activations a mean norm of sqrt(d), [models] float64."""
        return self._all_statistics.scale_M

    def _batch(self, step: int) -> Tensor:
        start, stop = step * self.batch_size, min((step + 1) * self.batch_size, self.total_tokens)
        places = np.arange(start, stop)[self.rank :: self.world]
        pieces = []
        while len(places):
            epoch, offset = divmod(int(places[0]), self.kept_tokens)
            blocks, ends = self._plan(epoch)
            index = int(np.searchsorted(ends, offset, side="right"))
            first = epoch * self.kept_tokens + (int(ends[index - 1]) if index else 0)
            inside = places < epoch * self.kept_tokens + ends[index]
            window = self._load(epoch, index, blocks[index])
            rows = torch.from_numpy(window.order_N[places[inside] - first])
            pieces.append(window.acts_NMD[rows])
            places = places[~inside]
        if not pieces:
            return torch.empty(0, len(self.joined.models), self.joined.d)
        return torch.cat(pieces).float()

    def _plan(self, epoch: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """The chunks of each of an epoch's windows, and the tokens of the epoch up to each window's end."""
        order = self._random(epoch).permutation(len(self._blocks))
        windows = [order[i : i + self._blocks_in_window] for i in range(0, len(order), self._blocks_in_window)]
        ends = np.cumsum([self._kept_in_block[window].sum() for window in windows])
        assert ends[-1] == self.kept_tokens, "an epoch must give each token once"
        return windows, ends

    def _load(self, epoch: int, index: int, blocks: NDArray[np.int64]) -> _Window:
        if self._window is None or self._window.key != (epoch, index):
            self._window = None  # never two windows in memory
            count, filled = int(self._kept_in_block[blocks].sum()), 0
            dtype = torch.bfloat16 if self.joined.dtype == "bfloat16" else torch.float32
            acts_NMD = torch.empty(count, len(self.joined.models), self.joined.d, dtype=dtype)
            for block in blocks:
                found_NMD = self._read(int(block))
                acts_NMD[filled : filled + len(found_NMD)] = found_NMD
                filled += len(found_NMD)
            assert filled == count, "an epoch must give each token once"
            self._window = _Window((epoch, index), acts_NMD, self._random(epoch, index).permutation(count))
        return self._window

    def _read(self, block: int) -> Tensor:
        """The tokens of a chunk that are kept, [n, models, d], in the stores' precision."""
        start, stop = self._blocks[block]
        stored = self.joined.read_stored(start, stop, self.layer)
        low, high = np.searchsorted(self._dropped, (start, stop))
        if low < high:
            stored = np.delete(stored, self._dropped[low:high] - start, axis=0)
        if stored.dtype == np.uint16:
            return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(stored)

    def _random(self, *what: object) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, "loader", *what))


def _spread(blocks: list[tuple[int, int]]) -> list[int]:
    """Indices of chunks, evenly spread, that hold about STATISTICS_TOKENS tokens, or all of them."""
    total = blocks[-1][1]
    count = max(1, min(len(blocks), len(blocks) * STATISTICS_TOKENS // total))
    return [i * len(blocks) // count for i in range(count)]


def _median(reader: StoreReader, layer: int, blocks: list[tuple[int, int]]) -> float:
    index = reader.layer_index(layer)
    return float(np.median(np.concatenate([reader.array("norm", *blocks[i], index) for i in _spread(blocks)])))


def _outliers(joined: Joined, layer: int, outlier_norm: float, medians: list[float]) -> NDArray[np.int64]:
    """Tokens whose norm is beyond the limit in any model, in order."""
    found = [np.empty(0, dtype=np.int64)]
    for start in range(0, joined.tokens_total, STATISTICS_TOKENS):
        stop = min(start + STATISTICS_TOKENS, joined.tokens_total)
        bad = np.zeros(stop - start, dtype=bool)
        for reader, median in zip(joined.readers, medians, strict=True):
            bad |= reader.array("norm", start, stop, reader.layer_index(layer)) > outlier_norm * median
        found.append(start + np.flatnonzero(bad))
    return np.concatenate(found)
