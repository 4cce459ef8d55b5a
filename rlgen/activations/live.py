"""Parts that are not on disk: their activations are computed when they are read (`activations.mode: streamed`)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from rlgen.activations.compute import check_separation, compute
from rlgen.activations.layout import Attributes, Bits, Source, from_torch
from rlgen.activations.slices import Slices
from rlgen.activations.store import Part
from rlgen.errors import StudyError
from rlgen.models import load_model
from rlgen.stage import input_digest

_KEPT = 2
"""Shards of each part that stay in memory after they were computed: neighbours are often read one after the other."""
_ONE_AT_A_TIME = threading.Lock()
"""Models share one device: forward passes wait for one another."""


class LivePart(Part):
    """A part whose activations come from its model.

    Raises StudyError if model or corpus are no longer what they were.
    """

    def __init__(self, path: Path, attributes: Attributes) -> None:
        super().__init__(path, attributes)
        assert attributes.source is not None
        self._source: Source = attributes.source
        self._shards: OrderedDict[int, tuple[Bits, NDArray[np.float32]]] = OrderedDict()

    def read_activations(self, chunk: int, layer: int, out: Bits) -> None:
        acts_NLD, _, where = self._find(chunk)
        out[:] = acts_NLD[where, layer]

    def read_small(self, name: str, chunk: int, layer: int, out: NDArray[Any]) -> None:
        if name != "norm":
            super().read_small(name, chunk, layer, out)
            return
        _, norm_NL, where = self._find(chunk)
        out[:] = norm_NL[where, layer]

    def _find(self, chunk: int) -> tuple[Bits, NDArray[np.float32], slice]:
        a = self.attributes
        shard, place = divmod(chunk, a.shard_tokens // a.chunk_tokens)
        tokens = self.chunk(chunk)
        start = place * a.chunk_tokens
        acts_NLD, norm_NL = self._shard(shard)
        return acts_NLD, norm_NL, slice(start, start + tokens.stop - tokens.start)

    def _shard(self, shard: int) -> tuple[Bits, NDArray[np.float32]]:
        with _ONE_AT_A_TIME:
            if shard not in self._shards:
                if len(self._shards) == _KEPT:
                    self._shards.popitem(last=False)
                self._shards[shard] = self._compute(shard)
            self._shards.move_to_end(shard)
            return self._shards[shard]

    def _compute(self, shard: int) -> tuple[Bits, NDArray[np.float32]]:
        a = self.attributes
        places_N = self._slices.shard(a.first_shard + shard)
        found = compute(self._network, self._slices, places_N, a.layers, a.dtype, self._source.batch_rows)
        if found.bad.any():
            raise StudyError(
                f"model `{a.model}`: NaN or infinite activations in shard {shard} of part {a.part}; "
                f"its weights are broken, or overflow {a.dtype}"
            )
        return from_torch(found.acts_NLD.cpu()), found.norm_NL.cpu().numpy()

    @cached_property
    def _network(self) -> PreTrainedModel:
        self._check("model", self._source.model, self.attributes.model_digest)
        network = load_model(Path(self._source.model))
        check_separation(network, self._slices, max(self.attributes.layers))
        return network

    @cached_property
    def _slices(self) -> Slices:
        self._check("corpus", self._source.corpus, self.attributes.corpus_digest)
        return Slices(Path(self._source.corpus), self.attributes.corpus_digest, self.attributes.shard_tokens)

    def _check(self, what: str, folder: str, digest: str) -> None:
        if input_digest(what, Path(folder)) != digest:
            raise StudyError(f"{self.path}: {folder} is no longer the {what} of this store; dump it again")
