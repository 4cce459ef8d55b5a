"""What an activation store looks like on disk: one Zarr v3 group a (model, part). Nothing here imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlgen.errors import StudyError
from rlgen.study.sections import Codec, Section

if TYPE_CHECKING:
    from torch import Tensor

METADATA = "zarr.json"
FORMAT = 2
"""Version of this layout."""
ACTIVATIONS = "activations"
SMALL = {"tokens": "int32", "document": "int32", "position": "int64", "norm": "float32"}
"""The other arrays, each one file a part, and their dtypes; `norm` has the layers as its second dimension."""

Bits = NDArray[Any]
"""Activations as stored: bf16 bits in uint16, or float32."""


class Statistics(Section):
    """Sums over the tokens of a shard or a part, in float64."""

    count: int
    """Tokens."""
    sum: list[list[float]]
    """Sum of activations, [layers][d]."""
    norm_sum: list[float]
    """Sum of norms, [layers]."""
    norm_squared_sum: list[float]
    """Sum of squared norms, [layers]."""

    @classmethod
    def total(cls, shards: list[Statistics]) -> Statistics:
        """The sums over several shards."""
        return cls(
            count=sum(shard.count for shard in shards),
            sum=np.sum([shard.sum for shard in shards], axis=0).tolist(),
            norm_sum=np.sum([shard.norm_sum for shard in shards], axis=0).tolist(),
            norm_squared_sum=np.sum([shard.norm_squared_sum for shard in shards], axis=0).tolist(),
        )


class Source(Section):
    """Where activations come from that are computed when they are read."""

    model: str
    """Folder of the model."""
    corpus: str
    """Folder of the corpus."""
    batch_rows: int
    """Corpus rows per forward pass."""


class Layout(Section):
    """Shape and provenance of one part: known before its first token is computed."""

    format: int = FORMAT
    model: str
    """The study's name of the model."""
    model_digest: str
    tokenizer_digest: str
    corpus_digest: str
    layers: list[int]
    """Decoder blocks after which the residual stream was read."""
    d: int
    """Width of the residual stream."""
    dtype: Literal["bfloat16", "float32"]
    """Precision; bfloat16 is stored as its bits in uint16."""
    part: int
    parts: int
    tokens: int
    """Tokens in this part, those left out not counted."""
    first_shard: int
    """This part's first shard, counted over all parts: parts are cut where shards are."""
    chunk_tokens: int
    shard_tokens: int
    codec: Codec
    source: Source | None = None
    """Given if the activations are not on disk, but computed when they are read."""

    @property
    def shards(self) -> int:
        """Number of shards, the last one may be shorter."""
        return -(-self.tokens // self.shard_tokens)

    def shard(self, index: int) -> slice:
        """The tokens of shard `index`."""
        return slice(index * self.shard_tokens, min((index + 1) * self.shard_tokens, self.tokens))


class Attributes(Layout):
    """A finished part's Zarr attributes."""

    statistics: Statistics | None
    """None if the activations are computed when they are read."""
    checksums: dict[str, list[str]]
    """SHA-256 of every array's shard files."""

    @property
    def bytes(self) -> int:
        """Size of the activations, uncompressed."""
        return self.tokens * len(self.layers) * self.d * (2 if self.dtype == "bfloat16" else 4)


def read_attributes(part: Path) -> Attributes:
    """A finished part's attributes. Raises StudyError if there is no store at `part`."""
    path = part / METADATA
    if not path.is_file():
        raise StudyError(f"{part}: no activation store there; run the dump of that part again")
    metadata: dict[str, Any] = json.loads(path.read_text())
    found = metadata["attributes"].get("format")
    if found != FORMAT:
        raise StudyError(f"{part}: activation store of format {found}, this version reads {FORMAT}; dump it again")
    return Attributes.model_validate(metadata["attributes"])


def shard_file(part: Path, array: str, shard: int) -> Path:
    """The file of an array's shard: Zarr's default key encoding; shards are cut along the tokens only."""
    dimensions = {ACTIVATIONS: 3, "norm": 2}.get(array, 1)
    return part / array / "c" / "/".join([str(shard)] + ["0"] * (dimensions - 1))


def from_torch(acts: Tensor) -> Bits:
    """A CPU tensor's memory as it is stored; not a copy."""
    import torch  # only where there are tensors, it is there already

    return acts.view(torch.int16).numpy().view(np.uint16) if acts.dtype == torch.bfloat16 else acts.numpy()


def to_float32(stored: Bits) -> NDArray[np.float32]:
    """Stored activations as float32; exact."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)
