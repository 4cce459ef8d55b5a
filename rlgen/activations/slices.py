"""Which tokens of the corpus are in which shard, and in what order: the same for every model. No torch here.

The corpus' rows are taken in a random order, tokens that do not count (BOS, padding) left out, and cut into shards;
parts are runs of whole shards. Within a shard the tokens are stored in a random order too. So one chunk, which is one
large read, holds tokens of many documents: shuffling at rest is what lets a small buffer of chunks stand for a
shuffle of everything.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlgen.data.corpus import read_corpus
from rlgen.errors import StudyError
from rlgen.stage import derive_seed

_COUNTED = 1 << 16
"""Corpus rows whose mask is counted at once."""

Places = NDArray[np.int64]


class Slices:
    """The shards of a corpus; the first ones alone that hold `tokens` tokens, if given."""

    def __init__(self, corpus: Path, digest: str, shard_tokens: int, tokens: int | None = None) -> None:
        self.folder, self._digest, self._size = corpus, digest, shard_tokens
        about, self.tokens, self.documents, self._mask = read_corpus(corpus)
        self.separate_documents = bool(about["separate_documents"])
        self.row_length = self.tokens.shape[1]
        self._rows = np.random.default_rng(derive_seed("rows", digest)).permutation(len(self._mask))
        counts = [self._mask[i : i + _COUNTED].sum(axis=1) for i in range(0, len(self._mask), _COUNTED)]
        self._ends = np.cumsum(np.concatenate(counts)[self._rows])
        """Tokens that count up to the end of each row, in the order in which they are taken."""
        self.total = int(self._ends[-1])
        if tokens is not None:
            self.total = min(self.total, -(-tokens // shard_tokens) * shard_tokens)

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-self.total // self._size)

    def shard(self, index: int) -> Places:
        """Where the tokens of shard `index` are in the flattened corpus, [tokens], in the order of the store."""
        start, stop = index * self._size, min((index + 1) * self._size, self.total)
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right")
        before = int(self._ends[first - 1]) if first else 0
        rows = self._rows[first : last + 1]
        row, column = np.nonzero(self._mask[rows])
        places = rows[row] * self.row_length + column
        random = np.random.default_rng(derive_seed("shard", self._digest, index))
        shuffled: Places = places[start - before : stop - before][random.permutation(stop - start)]
        return shuffled

    def part(self, part: int, parts: int) -> range:
        """The shards of one part. Raises StudyError if there are none."""
        shards = range(part * self.count // parts, (part + 1) * self.count // parts)
        if not shards:
            raise StudyError(
                f"activations.parts: {parts}; {self.folder} has {self.total:,} tokens in {self.count} shards, and part "
                f"{part} gets none; use fewer parts, or smaller shards (activations.shard_tokens)"
            )
        return shards

    def tokens_of(self, shards: range) -> int:
        """Tokens of a run of shards."""
        return min(shards.stop * self._size, self.total) - shards.start * self._size
