"""Reads activation stores: all parts of one model as one array of tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgen.activations.chunks import ShardFile
from rlgen.activations.copies import Copies
from rlgen.activations.layout import ACTIVATIONS, SMALL, Attributes, Bits, read_attributes, shard_file, to_float32
from rlgen.errors import StudyError

_SAME_IN_PARTS = (
    "model",
    "model_digest",
    "tokenizer_digest",
    "corpus_digest",
    "layers",
    "d",
    "dtype",
    "parts",
    "chunk_tokens",
    "shard_tokens",
)

Block = tuple[int, int]
"""The tokens [start, stop) of a chunk."""


class Part:
    """One part of a store: reads its chunks, from any thread."""

    def __init__(self, path: Path, attributes: Attributes, copies: Copies | None = None) -> None:
        self.path, self.attributes, self._copies = path, attributes, copies
        self._file = cache(self._open)
        """By array and shard: a shard's index is read once."""

    @property
    def chunks(self) -> int:
        """Number of chunks; the last may be shorter."""
        return -(-self.attributes.tokens // self.attributes.chunk_tokens)

    def chunk(self, index: int) -> slice:
        """The part's tokens that chunk `index` holds."""
        size = self.attributes.chunk_tokens
        return slice(index * size, min((index + 1) * size, self.attributes.tokens))

    def read_activations(self, chunk: int, layer: int, out: Bits) -> None:
        """Fill `out` [tokens of the chunk, d] with the activations at `layer` (an index into the stored layers)."""
        a = self.attributes
        shard, place = divmod(chunk, a.shard_tokens // a.chunk_tokens)
        file = self._file(ACTIVATIONS, shard)
        self._fill(file, place * len(a.layers) + layer, out)

    def read_small(self, name: str, chunk: int, layer: int, out: NDArray[Any]) -> None:
        """Fill `out` [tokens of the chunk] with one of the other arrays; `layer` counts for `norm` alone."""
        width = len(self.attributes.layers) if name == "norm" else 1
        self._fill(self._file(name, 0), chunk * width + (layer if name == "norm" else 0), out)

    def _fill(self, file: ShardFile, chunk: int, out: NDArray[Any]) -> None:
        size = self.attributes.chunk_tokens
        if len(out) == size:
            file.read(chunk, out)
            return
        whole = np.empty((size, *out.shape[1:]), dtype=out.dtype)  # Zarr pads a part's last chunk
        file.read(chunk, whole)
        out[:] = whole[: len(out)]

    def _open(self, name: str, shard: int) -> ShardFile:
        a = self.attributes
        path = shard_file(self.path, name, shard)
        if name == ACTIVATIONS:
            copy = self._copies.place(path) if self._copies and path.is_file() else None
            return ShardFile(path, a.shard_tokens // a.chunk_tokens * len(a.layers), a.codec, copy)
        return ShardFile(path, self.chunks * (len(a.layers) if name == "norm" else 1), "none")


def open_part(path: Path, copies: Copies | None = None) -> Part:
    """A part of a store, on disk or computed when it is read. Raises StudyError if there is none."""
    attributes = read_attributes(path)
    if attributes.source is None:
        return Part(path, attributes, copies)
    from rlgen.activations.live import LivePart  # needs torch and transformers; a stored part does not

    return LivePart(path, attributes)


class StoreReader:
    """One model's store: all its parts, read as one array of tokens, from `copies` on a local disk if they are given.

    Raises StudyError if a part is missing or comes from another model, corpus or tokenizer.
    """

    def __init__(self, parts: list[Path], copies: Copies | None = None) -> None:
        self._parts = sorted((open_part(path, copies) for path in parts), key=lambda part: part.attributes.part)
        self.paths = [part.path for part in self._parts]
        """The parts' folders, in order."""
        self._check_parts()
        first = self.attributes
        self.model, self.layers, self.d, self.dtype = first.model, first.layers, first.d, first.dtype
        self._starts = [0]
        self._first_blocks = [0]
        for part in self._parts:
            self._starts.append(self._starts[-1] + part.attributes.tokens)
            self._first_blocks.append(self._first_blocks[-1] + part.chunks)
        self.tokens_total = self._starts[-1]
        """Tokens over all parts."""

    @property
    def attributes(self) -> Attributes:
        """The first part's attributes."""
        return self._parts[0].attributes

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Token ids, [tokens]."""
        return self.array("tokens", 0, self.tokens_total)

    @property
    def documents(self) -> NDArray[np.int32]:
        """Document ids, [tokens]."""
        return self.array("document", 0, self.tokens_total)

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where each token is in the flattened corpus, [tokens]."""
        return self.array("position", 0, self.tokens_total)

    def norms(self, layer: int) -> NDArray[np.float32]:
        """Norms of the activations at `layer`, [tokens]."""
        return self.array("norm", 0, self.tokens_total, layer)

    def read(self, start: int, stop: int, layer: int) -> NDArray[np.float32]:
        """Activations of tokens [start, stop) after block `layer`, [stop - start, d]."""
        return to_float32(self.read_stored(start, stop, layer))

    def read_stored(self, start: int, stop: int, layer: int) -> Bits:
        """As `read`, but in the store's precision: float32, or bf16 bits in uint16."""
        out = np.empty((stop - start, self.d), dtype=self.stored_dtype)
        return self._gather(start, stop, out, lambda block, into: self.read_block(block, layer, into))

    def array(self, name: str, start: int, stop: int, layer: int | None = None) -> NDArray[Any]:
        """Tokens [start, stop) of `tokens`, `document`, `position`, or of `norm` at `layer`; [stop - start]."""
        out = np.empty(stop - start, dtype=SMALL[name])
        return self._gather(start, stop, out, lambda block, into: self.read_small(name, block, into, layer))

    def read_block(self, block: int, layer: int, out: Bits) -> None:
        """Fill `out` [tokens of the block, d], as stored, with the activations of block `block` (see `blocks`)."""
        part, chunk = self._locate(block)
        part.read_activations(chunk, self.layer_index(layer), out)

    def read_small(self, name: str, block: int, out: NDArray[Any], layer: int | None = None) -> None:
        """As `read_block`, of one of the other arrays."""
        part, chunk = self._locate(block)
        part.read_small(name, chunk, 0 if layer is None else self.layer_index(layer), out)

    def layer_index(self, layer: int) -> int:
        """Where `layer` is among the stored layers. Raises StudyError if it is not."""
        if layer not in self.layers:
            raise StudyError(
                f"activations.layers: {self.paths[0]} holds layers {self.layers}, not {layer}; dump it too"
            )
        return self.layers.index(layer)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Of what `read_stored` gives."""
        return np.dtype(np.uint16 if self.dtype == "bfloat16" else np.float32)

    @cached_property
    def blocks(self) -> list[Block]:
        """The tokens of every chunk, in order: the unit of a read."""
        found = []
        for part, start in zip(self._parts, self._starts, strict=False):
            edges = [*range(0, part.attributes.tokens, part.attributes.chunk_tokens), part.attributes.tokens]
            found += [(start + low, start + high) for low, high in pairwise(edges)]
        return found

    def same_bytes(self, name: str, other: StoreReader) -> bool:
        """Whether an array's files were written with the same content as another store's."""
        pairs = zip(self._parts, other._parts, strict=True)
        return all(a.attributes.checksums[name] == b.attributes.checksums[name] for a, b in pairs)

    @cached_property
    def shard_of_block(self) -> NDArray[np.int64]:
        """For every block, its shard, counted over all parts."""
        found = []
        for part in self._parts:
            chunks = np.arange(part.chunks) * part.attributes.chunk_tokens
            found.append(part.attributes.first_shard + chunks // part.attributes.shard_tokens)
        return np.concatenate(found)

    def _locate(self, block: int) -> tuple[Part, int]:
        index = bisect_right(self._first_blocks, block) - 1
        return self._parts[index], block - self._first_blocks[index]

    def _gather(self, start: int, stop: int, out: NDArray[Any], read: Callable[[int, Any], None]) -> NDArray[Any]:
        """Whole blocks are read in place; of others, what is asked for is copied."""
        block = bisect_right(self.blocks, start, key=lambda found: found[0]) - 1
        at = start
        while at < stop:
            low, high = self.blocks[block]
            if start <= low and high <= stop:
                read(block, out[low - start : high - start])
            else:
                whole = np.empty((high - low, *out.shape[1:]), dtype=out.dtype)
                read(block, whole)
                out[at - start : min(high, stop) - start] = whole[at - low : min(high, stop) - low]
            at, block = high, block + 1
        return out

    def _check_parts(self) -> None:
        first = self.attributes
        for part in self._parts:
            path, attributes = part.path, part.attributes
            for key in _SAME_IN_PARTS:
                mine, its = getattr(first, key), getattr(attributes, key)
                if mine != its:
                    raise StudyError(
                        f"{self.paths[0]} and {path} are not parts of one store: "
                        f"{key} is {mine} and {its}; dump both again"
                    )
        have = [part.attributes.part for part in self._parts]
        if have != list(range(first.parts)):
            raise StudyError(f"{self.paths[0].parent}: parts {have} given, 0 to {first.parts - 1} needed, each once")


def group_parts(stores: list[Path], models: list[str]) -> list[list[Path]]:
    """The parts of each of `models`, from the parts of all of them in any order, as a rule passes them.

    Raises StudyError if a model has none.
    """
    by_model: dict[str, list[Path]] = {}
    for path in dict.fromkeys(stores):
        by_model.setdefault(read_attributes(path).model, []).append(path)
    for model in models:
        if model not in by_model:
            raise StudyError(
                f"--store: none of model `{model}`, only of {', '.join(sorted(by_model))}; give its parts too"
            )
    return [by_model[model] for model in models]
