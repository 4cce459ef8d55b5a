"""Reads activation stores: all parts of one model, and several models' stores joined token by token."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from rlgen.activations.layout import Attributes, Bits, read_attributes, to_float32
from rlgen.errors import StudyError

_SAME_IN_PARTS = ("model", "model_digest", "tokenizer_digest", "corpus_digest", "layers", "d", "dtype", "parts")
_COMPARED_TOKENS = 1 << 20
"""Token ids of two stores are compared in blocks of so many."""


class StoreReader:
    """One model's store: all its parts, read as one array of tokens.

    Raises StudyError if a part is missing or comes from another model, corpus or tokenizer.
    """

    def __init__(self, parts: list[Path]) -> None:
        found = sorted(((read_attributes(path), path) for path in parts), key=lambda part: part[0].part)
        self._attributes = [attributes for attributes, _ in found]
        self.paths = [path for _, path in found]
        """The parts' folders, in order."""
        self._check_parts()
        first = self.attributes
        self.model, self.layers, self.d, self.dtype = first.model, first.layers, first.d, first.dtype
        self._starts = np.cumsum([0, *(a.tokens for a in self._attributes)])
        self.tokens_total = int(self._starts[-1])
        """Tokens over all parts."""
        self._arrays: dict[str, list[Any]] = {}

    @property
    def attributes(self) -> Attributes:
        """The first part's attributes."""
        return self._attributes[0]

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Token ids, [tokens]."""
        return self.array("tokens", 0, self.tokens_total)

    @property
    def documents(self) -> NDArray[np.int32]:
        """Document ids, [tokens]."""
        return self.array("document", 0, self.tokens_total)

    def norms(self, layer: int) -> NDArray[np.float32]:
        """Norms of the activations at `layer`, [tokens]."""
        return self.array("norm", 0, self.tokens_total, self.layer_index(layer))

    def read(self, start: int, stop: int, layer: int) -> NDArray[np.float32]:
        """Activations of tokens [start, stop) after block `layer`, [stop - start, d]."""
        return to_float32(self.read_stored(start, stop, layer))

    def read_stored(self, start: int, stop: int, layer: int) -> Bits:
        """As `read`, but in the store's precision: float32, or bf16 bits in uint16."""
        return self.array("activations", start, stop, self.layer_index(layer))

    def layer_index(self, layer: int) -> int:
        """Where `layer` is among the stored layers. Raises StudyError if it is not."""
        if layer not in self.layers:
            raise StudyError(
                f"activations.layers: {self.paths[0]} holds layers {self.layers}, not {layer}; dump it too"
            )
        return self.layers.index(layer)

    def array(self, name: str, start: int, stop: int, *rest: int) -> NDArray[Any]:
        """Tokens [start, stop) of an array, over part boundaries; `rest` indexes its other dimensions."""
        if name not in self._arrays:
            self._arrays[name] = [zarr.open_array(path / name, mode="r") for path in self.paths]
        pieces = []
        for array, offset in zip(self._arrays[name], self._starts[:-1], strict=True):
            low, high = max(start - offset, 0), min(stop - offset, array.shape[0])
            if low < high:
                pieces.append(np.asarray(array[(slice(low, high), *rest)]))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def blocks(self) -> list[tuple[int, int]]:
        """The tokens [start, stop) of every chunk, in order: the unit of a read."""
        found = []
        for attributes, start in zip(self._attributes, self._starts.tolist(), strict=False):
            edges = [*range(0, attributes.tokens, attributes.chunk_tokens), attributes.tokens]
            found += [(start + low, start + high) for low, high in pairwise(edges)]
        return found

    def _check_parts(self) -> None:
        first = self.attributes
        for path, attributes in zip(self.paths, self._attributes, strict=True):
            for key in _SAME_IN_PARTS:
                mine, its = getattr(first, key), getattr(attributes, key)
                if mine != its:
                    raise StudyError(
                        f"{self.paths[0]} and {path} are not parts of one store: "
                        f"{key} is {mine} and {its}; dump both again"
                    )
        have = [attributes.part for attributes in self._attributes]
        if have != list(range(first.parts)):
            raise StudyError(f"{self.paths[0].parent}: parts {have} given, 0 to {first.parts - 1} needed, each once")


class Joined:
    """Stores of several models over the same tokens."""

    def __init__(self, readers: list[StoreReader]) -> None:
        self.readers = readers
        self.models = [reader.model for reader in readers]
        """The models' names; one may be there twice."""
        self.d, self.dtype, self.tokens_total = readers[0].d, readers[0].dtype, readers[0].tokens_total

    def read_stored(self, start: int, stop: int, layer: int) -> Bits:
        """Activations of tokens [start, stop) after block `layer`, [stop - start, models, d], as stored."""
        read: dict[StoreReader, Bits] = {}
        for reader in self.readers:
            if reader not in read:
                read[reader] = reader.read_stored(start, stop, layer)
        return np.stack([read[reader] for reader in self.readers], axis=1)

    def read(self, start: int, stop: int, layer: int) -> NDArray[np.float32]:
        """Activations of tokens [start, stop) after block `layer`, [stop - start, models, d]."""
        return to_float32(self.read_stored(start, stop, layer))

    def blocks(self) -> list[tuple[int, int]]:
        """The tokens [start, stop) of every chunk of the first store."""
        return self.readers[0].blocks()


def join(stores: list[list[Path]]) -> Joined:
    """Join models' stores, each given by its parts; the same store may be there twice.

    Raises StudyError, with both sides named, unless all were dumped with the same tokenizer, corpus, layers,
    width and precision, over the same token ids.
    """
    opened: dict[tuple[Path, ...], StoreReader] = {}
    for parts in stores:
        if tuple(parts) not in opened:
            opened[tuple(parts)] = StoreReader(parts)
    readers = [opened[tuple(parts)] for parts in stores]
    for other in list(opened.values())[1:]:
        _check_joinable(readers[0], other)
    return Joined(readers)


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


def _check_joinable(one: StoreReader, two: StoreReader) -> None:
    of: dict[str, Callable[[StoreReader], object]] = {
        "tokenizer": lambda reader: reader.attributes.tokenizer_digest,
        "corpus": lambda reader: reader.attributes.corpus_digest,
        "layers": lambda reader: reader.layers,
        "width d": lambda reader: reader.d,
        "dtype": lambda reader: reader.dtype,
        "number of tokens": lambda reader: reader.tokens_total,
    }
    for what, value in of.items():
        if value(one) != value(two):
            raise StudyError(
                f"{one.paths[0]} and {two.paths[0]} cannot be joined: "
                f"{what} {value(one)} of `{one.model}`, {value(two)} of `{two.model}`; dump both on the same corpus"
            )
    for start in range(0, one.tokens_total, _COMPARED_TOKENS):
        stop = min(start + _COMPARED_TOKENS, one.tokens_total)
        differs = one.array("tokens", start, stop) != two.array("tokens", start, stop)
        if differs.any():
            raise StudyError(
                f"{one.paths[0]} and {two.paths[0]} cannot be joined: from token {start + int(differs.argmax()):,} on, "
                f"`{one.model}` and `{two.model}` saw different token ids; dump both on the same corpus"
            )
