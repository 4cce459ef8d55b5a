"""Several models' stores, joined token by token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlgen.activations.copies import Copies
from rlgen.activations.layout import Bits, to_float32
from rlgen.activations.store import Block, StoreReader
from rlgen.errors import StudyError

_COMPARED_TOKENS = 1 << 20
"""Token ids of two stores are compared in blocks of so many."""


class Joined:
    """Stores of several models over the same tokens."""

    def __init__(self, readers: list[StoreReader]) -> None:
        self.readers = readers
        self.distinct = list(dict.fromkeys(readers))
        """The stores, each once."""
        self.slots = [self.distinct.index(reader) for reader in readers]
        """For every model, which of the distinct stores is its own."""
        self.models = [reader.model for reader in readers]
        """The models' names; one may be there twice."""
        first = readers[0]
        self.d, self.dtype, self.tokens_total = first.d, first.dtype, first.tokens_total
        self.stored_dtype = first.stored_dtype

    def read_stored(self, start: int, stop: int, layer: int) -> Bits:
        """Activations of tokens [start, stop) after block `layer`, [stop - start, models, d], as stored."""
        read = [reader.read_stored(start, stop, layer) for reader in self.distinct]
        return np.stack([read[slot] for slot in self.slots], axis=1)

    def read(self, start: int, stop: int, layer: int) -> NDArray[np.float32]:
        """Activations of tokens [start, stop) after block `layer`, [stop - start, models, d]."""
        return to_float32(self.read_stored(start, stop, layer))

    @property
    def blocks(self) -> list[Block]:
        """The tokens of every chunk; the same in all stores."""
        return self.readers[0].blocks


def join(stores: list[list[Path]], copies: Copies | None = None) -> Joined:
    """Join models' stores, each given by its parts, read from `copies` on a local disk if they are given.

    The same store may be there twice.

    Raises StudyError, with both sides named, unless all were dumped with the same tokenizer, corpus, layers,
    width and precision, over the same token ids.
    """
    opened: dict[tuple[Path, ...], StoreReader] = {}
    for parts in stores:
        if tuple(parts) not in opened:
            opened[tuple(parts)] = StoreReader(parts, copies)
    readers = [opened[tuple(parts)] for parts in stores]
    for other in list(opened.values())[1:]:
        _check_joinable(readers[0], other)
    return Joined(readers)


def _check_joinable(one: StoreReader, two: StoreReader) -> None:
    of: dict[str, Callable[[StoreReader], object]] = {
        "tokenizer": lambda reader: reader.attributes.tokenizer_digest,
        "corpus": lambda reader: reader.attributes.corpus_digest,
        "layers": lambda reader: reader.layers,
        "width d": lambda reader: reader.d,
        "dtype": lambda reader: reader.dtype,
        "number of tokens": lambda reader: reader.tokens_total,
        "tokens a shard": lambda reader: reader.attributes.shard_tokens,
        "tokens a chunk": lambda reader: reader.attributes.chunk_tokens,
        "parts": lambda reader: reader.attributes.parts,
    }
    for what, value in of.items():
        if value(one) != value(two):
            raise StudyError(
                f"{one.paths[0]} and {two.paths[0]} cannot be joined: "
                f"{what} {value(one)} of `{one.model}`, {value(two)} of `{two.model}`; dump both on the same corpus"
            )
    if one.same_bytes("tokens", two) and one.same_bytes("position", two):
        return
    for start in range(0, one.tokens_total, _COMPARED_TOKENS):
        stop = min(start + _COMPARED_TOKENS, one.tokens_total)
        differs = one.array("tokens", start, stop) != two.array("tokens", start, stop)
        if differs.any():
            raise StudyError(
                f"{one.paths[0]} and {two.paths[0]} cannot be joined: from token {start + int(differs.argmax()):,} on, "
                f"`{one.model}` and `{two.model}` saw different token ids; dump both on the same corpus"
            )
