"""Base, an arm and its checkpoints on the same tokens, read and encoded block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.activations.copies import Copies
from rlgen.activations.layout import read_attributes
from rlgen.activations.store import StoreReader, group_parts
from rlgen.crosscoder.model import Crosscoder
from rlgen.errors import StudyError
from rlgen.features.refit import HALVES, Codes, halved
from rlgen.stage import Progress, derive_seed
from rlgen.study import BASE
from rlgen.study.stages import TrackSettings

BLOCK = 4096
"""Tokens read and encoded at once."""
GROUPS = 20
"""Groups of documents, which the bootstrap draws from; even ones are the first half, odd ones the second."""


@dataclass(frozen=True)
class Tokens:
    """Which tokens of the stores take part, of the first `stop`, and the group of the document that each is of."""

    stop: int
    kept: NDArray[np.bool_]
    group: NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Some tokens of one model."""

    codes: Codes
    """The frozen codes, those of the final models, by half."""
    acts_BD: Tensor
    """The model's activations."""
    swapped_BF: Tensor
    """Codes by swap readout: the model's activations in the arm's slot, base's in base's."""
    group_B: Tensor
    """The documents' groups."""

    @property
    def half_B(self) -> Tensor:
        """The documents' halves, [tokens]."""
        return self.group_B % HALVES


def open_stores(
    stores: Sequence[Path], arm: str, copies: Copies | None = None
) -> tuple[list[str], dict[str, StoreReader]]:
    """The arm's checkpoints, oldest first and the arm last, and a reader for each of them and for base."""
    stored = {read_attributes(path).model for path in stores}
    earlier = [name for name in stored if name.startswith(f"{arm}@")]
    checkpoints = [*sorted(earlier, key=lambda name: int(name.rpartition("@")[2])), arm]
    names = [BASE, *checkpoints]
    readers = [StoreReader(parts, copies) for parts in group_parts(list(stores), names)]
    return checkpoints, dict(zip(names, readers, strict=True))


def choose_tokens(readers: dict[str, StoreReader], layer: int, settings: TrackSettings) -> Tokens:
    """The first `settings.tokens` tokens that all stores have, without outliers, and a group for each document."""
    stop = min(settings.tokens, *(reader.tokens_total for reader in readers.values()))
    first = readers[BASE]
    kept = np.ones(stop, dtype=bool)
    for name, reader in readers.items():
        if not np.array_equal(reader.array("tokens", 0, stop), first.array("tokens", 0, stop)):
            raise StudyError(f"stores of `{BASE}` and `{name}` hold different tokens; dump both from one corpus")
        norms = reader.array("norm", 0, stop, layer)
        kept &= norms <= settings.outlier_norm * np.median(norms)
    documents, index = np.unique(first.array("document", 0, stop), return_inverse=True)
    if len(documents) < HALVES:
        raise StudyError(f"tracking.tokens: {stop} tokens hold one document, and the null needs two; give more tokens")
    order = np.random.default_rng(derive_seed(settings.seed, "track", "halves")).permutation(len(documents))
    return Tokens(stop, kept, (order % GROUPS)[index])


class Blocks:
    """Tokens in blocks: frozen codes, encoded once and kept sparse, and every model's activations and swapped codes."""

    def __init__(self, model: Crosscoder, readers: dict[str, StoreReader], tokens: Tokens, progress: Progress) -> None:
        self._model, self._readers, self._tokens, self._progress = model, readers, tokens, progress
        self._arm = next(name for name in model.config.models if name != BASE)
        self._encoded: dict[int, Codes] = {}

    def codes(self) -> Iterator[Codes]:
        """Frozen codes, block by block."""
        for start in self._starts():
            yield self._codes(start)

    def of(self, name: str) -> Iterator[Block]:
        """One model's blocks."""
        for start in self._starts():
            acts_BD = self._read(name, start)
            yield Block(self._codes(start), acts_BD, self._swapped(acts_BD, start), self._group(start))

    def _starts(self) -> Iterator[int]:
        for start in range(0, self._tokens.stop, BLOCK):
            yield start
            self._progress.add(self._stop(start) - start)

    def _codes(self, start: int) -> Codes:
        if start not in self._encoded:
            codes_BF = self._swapped(self._read(self._arm, start), start)
            self._encoded[start] = halved(codes_BF, self._group(start) % HALVES)
        return self._encoded[start]

    @torch.no_grad()
    def _swapped(self, acts_BD: Tensor, start: int) -> Tensor:
        """Codes with these activations in the arm's slot, [tokens, F]; the arm's own give the frozen codes."""
        base_BD = self._read(BASE, start)
        slots = [base_BD if name == BASE else acts_BD for name in self._model.config.models]
        return self._model.encode(torch.stack(slots, dim=1))

    def _read(self, name: str, start: int) -> Tensor:
        stored = self._readers[name].read(start, self._stop(start), self._model.config.layer)
        return torch.from_numpy(stored)[self._kept(start)].to(self._model.W_enc.device)

    def _group(self, start: int) -> Tensor:
        group_B = torch.from_numpy(self._tokens.group[start : self._stop(start)])[self._kept(start)]
        return group_B.to(self._model.W_enc.device)

    def _kept(self, start: int) -> Tensor:
        return torch.from_numpy(self._tokens.kept[start : self._stop(start)])

    def _stop(self, start: int) -> int:
        return min(start + BLOCK, self._tokens.stop)
