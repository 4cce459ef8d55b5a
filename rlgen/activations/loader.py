"""Stores to shuffled, aligned batches: deterministic, each token once an epoch, resumable at the exact batch.

An epoch is a random order of all chunks, evenly over the shards, cut into windows that fit the buffer; a window's
tokens are read from disk together and shuffled among each other, while the next window is read in the background. A
chunk holds tokens of many documents already (`slices`), so a batch is close to one of a shuffle of everything. The
stream of tokens so defined depends on the seed alone, and its n-th batch can be made without the ones before it: so the
number of the next batch is all the state there is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.activations.joined import Joined
from rlgen.activations.layout import from_torch
from rlgen.activations.store import StoreReader
from rlgen.stage import derive_seed

BUFFER_BYTES = 1 << 30
"""Memory for activations: the window that batches are drawn from and the one that is read meanwhile."""
READERS = 4
"""Threads that read chunks."""
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


@dataclass(frozen=True)
class _Plan:
    """One window: which chunks, in which order."""

    key: tuple[int, int]
    """Epoch and number."""
    first: int
    """Its first token, counted over all epochs."""
    stop: int
    blocks: NDArray[np.int64]


class _Window:
    """A plan's tokens in memory: [stores, tokens, d], each store's chunks one after the other."""

    def __init__(
        self,
        plan: _Plan,
        acts_MND: Tensor,
        slots: list[int],
        kept_N: Tensor,
        order_N: Tensor,
        reads: list[Future[None]],
    ) -> None:
        self.plan = plan
        self._acts_MND = acts_MND
        self._firsts_M = torch.tensor(slots, device=acts_MND.device) * acts_MND.shape[1]
        self._kept_N, self._order_N, self._reads = kept_N, order_N, reads

    def wait(self) -> None:
        """Until all is read. Raises what a read raised."""
        for read in self._reads:
            read.result()

    def take(self, places: NDArray[np.int64]) -> Tensor:
        """The tokens at `places` of the window's order, without outliers, [tokens, models, d]."""
        rows_N = self._order_N[torch.from_numpy(places)]
        rows_N = rows_N[self._kept_N[rows_N]].to(self._acts_MND.device)
        stores, tokens, d = self._acts_MND.shape
        rows_NM = rows_N[:, None] + self._firsts_M  # one gather for all models
        return self._acts_MND.view(stores * tokens, d).index_select(0, rows_NM.flatten()).view(*rows_NM.shape, d)


class Loader:
    """Batches [batch, models, d] of the joined stores' activations at one layer, in the stores' precision.

    A batch is `batch_size` tokens over all ranks (the last one may be smaller), less those whose norm in any model
    exceeds `outlier_norm` times that model's median norm; rank r of `world` is given every `world`-th of them. `epochs`
    may be a fraction; with `tokens` they are of the first chunks that hold so many. With a GPU as `device`, windows are
    in its memory: chunks go there through pinned memory, on
    streams of their own.
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
        device: torch.device | str = "cpu",
        tokens: int | None = None,
    ) -> None:
        self.joined, self.layer, self.batch_size, self.seed = joined, layer, batch_size, seed
        self.rank, self.world, self.device = rank, world, torch.device(device)
        self._blocks = [(start, stop) for start, stop in joined.blocks if tokens is None or start < tokens]
        for reader in joined.distinct:
            reader.layer_index(layer)
        self._outlier_norm = outlier_norm
        self._lengths = np.diff(np.array(self._blocks), axis=1)[:, 0]
        itemsize = joined.stored_dtype.itemsize
        width = len(joined.distinct) * joined.d * itemsize
        self._blocks_in_window = max(1, buffer_bytes // 2 // (int(self._lengths.max()) * width))
        self._buffers: list[Tensor] = []
        self._of_thread = threading.local()
        self.epoch_tokens = int(self._lengths.sum())
        """Tokens of an epoch, outliers among them."""
        self.total_tokens = round(epochs * self.epoch_tokens)
        """Tokens over all epochs and ranks, outliers among them."""
        self.step = 0
        """Batches given so far."""
        self.dropped = 0
        """Outliers left out so far, by this rank."""

    def __len__(self) -> int:
        """Batches over all epochs."""
        return -(-self.total_tokens // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        """From the next batch to the last."""
        with ThreadPoolExecutor(READERS) as pool:
            try:
                windows = self._windows(pool)
                window = next(windows, None)
                while self.step < len(self):
                    start, stop = self.step * self.batch_size, min((self.step + 1) * self.batch_size, self.total_tokens)
                    places, pieces = np.arange(start, stop)[self.rank :: self.world], []
                    while window is not None and len(places):
                        inside = places < window.plan.stop
                        pieces.append(window.take(places[inside] - window.plan.first))
                        places = places[~inside]
                        if stop >= window.plan.stop:
                            window = next(windows, None)
                    batch_BMD = pieces[0] if len(pieces) == 1 else torch.cat([self._nothing, *pieces])
                    self.step += 1
                    self.dropped += len(range(start, stop)[self.rank :: self.world]) - len(batch_BMD)
                    yield batch_BMD
            finally:
                pool.shutdown(cancel_futures=True)

    def state_dict(self) -> dict[str, int]:
        """All that it takes to go on with the next batch."""
        return {"step": self.step, "dropped": self.dropped, "seed": self.seed, "tokens": self.total_tokens}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the loader was that gave `state`. Raises ValueError if it had another seed or other tokens."""
        if (state["seed"], state["tokens"]) != (self.seed, self.total_tokens):
            raise ValueError(f"the state is of seed {state['seed']} and {state['tokens']:,} tokens, not of this loader")
        self.step, self.dropped = state["step"], state["dropped"]

    @cached_property
    def medians(self) -> list[float]:
        """Median norm of every model's activations."""
        found = {reader: _median(reader, self.layer, self._lengths) for reader in self.joined.distinct}
        return [found[reader] for reader in self.joined.readers]

    def statistics(self, reference: int = 0) -> Statistics:
        """Means, scales and variances; differences are taken to the model at slot `reference`."""
        sums = torch.zeros(len(self.joined.models), self.joined.d, dtype=torch.float64)
        count = 0
        for acts_NMD in self._sample():
            sums += acts_NMD.sum(dim=0).double()
            count += len(acts_NMD)
        mean_MD = sums / count
        centre_MD = mean_MD.float()
        norm_M, variance_M, delta_M = torch.zeros(3, len(sums), dtype=torch.float64)
        for acts_NMD in self._sample():
            centred_NMD = acts_NMD - centre_MD
            squares_NM = centred_NMD.square().sum(dim=-1).double()
            norm_M += squares_NM.sqrt().sum(dim=0)
            variance_M += squares_NM.sum(dim=0)
            delta_NMD = centred_NMD - centred_NMD[:, reference : reference + 1]
            delta_M += delta_NMD.square().sum(dim=-1).double().sum(dim=0)
        return Statistics(mean_MD, math.sqrt(self.joined.d) * count / norm_M, variance_M / count, delta_M / count)

    def _sample(self) -> Iterator[Tensor]:
        """The statistics' chunks, without outliers, [tokens, models, d] float32."""
        for block in _spread(self._lengths):
            acts_NMD = torch.from_numpy(self.joined.read(*self._blocks[block], self.layer))
            yield acts_NMD[torch.from_numpy(self._kept(block))]

    # ------------------------------------------------------------------------------------------ windows

    @property
    def _nothing(self) -> Tensor:
        dtype = torch.bfloat16 if self.joined.dtype == "bfloat16" else torch.float32
        return torch.empty(0, len(self.joined.models), self.joined.d, dtype=dtype, device=self.device)

    def _windows(self, pool: ThreadPoolExecutor) -> Iterator[_Window]:
        """The windows from the next batch on; when one is given, the reading of the one after it begins."""
        ahead: _Window | None = None
        for plan in self._plans(self.step * self.batch_size):
            current, ahead = ahead, None
            if current is not None:
                current.wait()
                ahead = self._begin(plan, pool)
                yield current
            else:
                ahead = self._begin(plan, pool)
        if ahead is not None:
            ahead.wait()
            yield ahead

    def _plans(self, first: int) -> Iterator[_Plan]:
        """All windows that hold tokens from `first` on."""
        size = self._blocks_in_window
        for epoch in range(first // self.epoch_tokens, -(-self.total_tokens // self.epoch_tokens)):
            order = self._order(epoch)
            at = epoch * self.epoch_tokens
            for index in range(-(-len(order) // size)):
                blocks = order[index * size : (index + 1) * size]
                stop = at + int(self._lengths[blocks].sum())
                if stop > first and at < self.total_tokens:
                    yield _Plan((epoch, index), at, stop, blocks)
                at = stop
            assert at == (epoch + 1) * self.epoch_tokens, "an epoch must give each token once"

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """All chunks, at random, but those of a shard evenly spread: so every window has some of nearly every shard."""
        random = self._random(epoch)
        shards = self.joined.readers[0].shard_of_block[: len(self._blocks)]
        _, shard, counts = np.unique(shards, return_inverse=True, return_counts=True)
        sequence = np.lexsort((random.random(len(shard)), shard))
        rank = np.empty(len(shard), dtype=np.int64)
        rank[sequence] = np.arange(len(shard)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.argsort((rank + random.random(len(shard))) / counts[shard])

    def _begin(self, plan: _Plan, pool: ThreadPoolExecutor) -> _Window:
        """Start reading a window."""
        count = plan.stop - plan.first
        buffer_MND = self._buffer(plan)
        kept_N = torch.ones(count, dtype=torch.bool)
        order_N = torch.from_numpy(self._random(*plan.key).permutation(count))
        ends = np.cumsum(self._lengths[plan.blocks])
        reads = []
        for block, stop in zip(plan.blocks.tolist(), ends.tolist(), strict=True):
            where = slice(stop - int(self._lengths[block]), stop)
            if math.isfinite(self._outlier_norm):
                reads.append(pool.submit(self._mark, block, kept_N[where]))
            for acts_ND, reader in zip(buffer_MND, self.joined.distinct, strict=True):
                reads.append(pool.submit(self._read, reader, block, acts_ND[where]))
        return _Window(plan, buffer_MND, self.joined.slots, kept_N, order_N, reads)

    def _buffer(self, plan: _Plan) -> Tensor:
        """Memory for a window, [distinct stores, tokens, d]: that of the window before the last one."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # batches may still be taken from it
        if len(self._buffers) == 2:
            self._buffers.reverse()
            return self._buffers[0]
        tokens = min(self._blocks_in_window * int(self._lengths.max()), self.epoch_tokens)
        shape, dtype = (len(self.joined.distinct), tokens, self.joined.d), self._nothing.dtype
        if self.device.type == "cpu":  # by numpy, which asks for huge pages: first touched in half the time
            buffer_MND = torch.from_numpy(np.empty(shape, dtype=f"i{dtype.itemsize}")).view(dtype)
        else:
            buffer_MND = torch.empty(shape, dtype=dtype, device=self.device)
        self._buffers.insert(0, buffer_MND)
        return self._buffers[0]

    def _read(self, reader: StoreReader, block: int, out_ND: Tensor) -> None:
        """Read a chunk to its place in a window; runs in a thread."""
        if self.device.type == "cpu":
            reader.read_block(block, self.layer, from_torch(out_ND))
            return
        pinned_ND, stream = self._staging()
        pinned_ND = pinned_ND[: len(out_ND)]
        reader.read_block(block, self.layer, from_torch(pinned_ND))
        with torch.cuda.stream(stream):
            out_ND.copy_(pinned_ND, non_blocking=True)
        stream.synchronize()

    def _staging(self) -> tuple[Tensor, torch.cuda.Stream]:
        """A reading thread's pinned memory and stream."""
        if not hasattr(self._of_thread, "staging"):
            shape = (int(self._lengths.max()), self.joined.d)
            pinned_ND = torch.empty(shape, dtype=self._nothing.dtype, pin_memory=True)
            self._of_thread.staging = pinned_ND, torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        found: tuple[Tensor, torch.cuda.Stream] = self._of_thread.staging
        return found

    def _mark(self, block: int, kept_N: Tensor) -> None:
        kept_N.copy_(torch.from_numpy(self._kept(block)))

    def _kept(self, block: int) -> NDArray[np.bool_]:
        """Which tokens of a chunk are not outliers in any model."""
        kept = np.ones(int(self._lengths[block]), dtype=bool)
        if math.isfinite(self._outlier_norm):
            norms = np.empty(len(kept), dtype=np.float32)
            for reader, median in zip(self.joined.readers, self.medians, strict=True):
                reader.read_small("norm", block, norms, self.layer)
                kept &= norms <= self._outlier_norm * median
        return kept

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, "loader", *key))


def _spread(lengths: NDArray[np.int64]) -> list[int]:
    """Chunks, evenly spread, that hold about STATISTICS_TOKENS tokens, or all of them."""
    count = max(1, min(len(lengths), len(lengths) * STATISTICS_TOKENS // int(lengths.sum())))
    return [i * len(lengths) // count for i in range(count)]


def _median(reader: StoreReader, layer: int, lengths: NDArray[np.int64]) -> float:
    found = []
    for block in _spread(lengths):
        norms = np.empty(int(lengths[block]), dtype=np.float32)
        reader.read_small("norm", block, norms, layer)
        found.append(norms)
    return float(np.median(np.concatenate(found)))
