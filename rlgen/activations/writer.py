"""Writes one part of an activation store, shard by shard; a shard is the unit of resuming."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from rlgen.activations.layout import ARRAYS, METADATA, Attributes, Bits, Layout, Statistics, shard_file, to_float32
from rlgen.errors import StudyError
from rlgen.stage import json_digest, write_json

_CREATED = "arrays-created"


class StoreWriter:
    """A part under way in `folder`; what has been written is noted, with checksums, in `scratch`."""

    def __init__(self, folder: Path, scratch: Path, layout: Layout) -> None:
        self.folder, self.scratch, self.layout = folder, scratch, layout
        if not (scratch / _CREATED).exists():
            self._create()
            (scratch / _CREATED).touch()
        self._arrays = {name: zarr.open_array(folder / name, mode="r+") for name in ARRAYS}

    def done(self, shard: int) -> bool:
        """Whether that shard is there and is what was written: its files are read and their checksums compared."""
        record = self._record(shard)
        if not record.is_file():
            return False
        checksums = json.loads(record.read_text())["checksums"]
        return all(_checksum(shard_file(self.folder, name, shard)) == checksums[name] for name in ARRAYS)

    def write(self, shard: int, values: dict[str, NDArray[Any]]) -> None:
        """Write a whole shard: `activations` [n, layers, d], `tokens` [n], `document` [n], `norm` [n, layers].

        Raises StudyError if it cannot be written, for instance because the disk is full.
        """
        where = self.layout.shard(shard)
        try:
            for name in ARRAYS:
                shard_file(self.folder, name, shard).unlink(missing_ok=True)  # may be half of an interrupted write
                self._arrays[name][where] = values[name]
        except OSError as error:
            raise StudyError(
                f"{self.folder}: shard {shard} cannot be written ({error.strerror}); free space or permit writing; "
                "the shards before it are kept"
            ) from None
        checksums = {name: _checksum(shard_file(self.folder, name, shard)) for name in ARRAYS}
        statistics = _statistics(values["activations"], values["norm"]).model_dump()
        write_json(self._record(shard), {"checksums": checksums, "statistics": statistics})

    def finish(self) -> str:
        """Write the group's attributes, when all shards are written; returns the store's digest."""
        records = [json.loads(self._record(shard).read_text()) for shard in range(self.layout.shards)]
        attributes = Attributes(
            **self.layout.model_dump(),
            statistics=Statistics.total([Statistics(**record["statistics"]) for record in records]),
            checksums={name: [record["checksums"][name] for record in records] for name in ARRAYS},
        ).model_dump(mode="json")
        write_json(self.folder / METADATA, {"zarr_format": 3, "node_type": "group", "attributes": attributes})
        return json_digest(attributes)

    def _record(self, shard: int) -> Path:
        return self.scratch / f"shard-{shard:06d}.json"

    def _create(self) -> None:
        layout, layers = self.layout, len(self.layout.layers)
        bf16 = layout.dtype == "bfloat16"
        note = {"encoding": "bfloat16 bits in uint16"} if bf16 else {}
        shapes: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {  # dtype; shape and chunk beyond tokens
            "activations": ("uint16" if bf16 else "float32", (layers, layout.d), (1, layout.d)),
            "tokens": ("int32", (), ()),
            "document": ("int32", (), ()),
            "norm": ("float32", (layers,), (1,)),
        }
        for name, (dtype, rest, chunk) in shapes.items():
            zarr.create_array(
                self.folder / name,
                shape=(layout.tokens, *rest),
                chunks=(layout.chunk_tokens, *chunk),
                shards=(layout.shard_tokens, *rest),
                dtype=dtype,
                compressors=None,
                fill_value=0,
                dimension_names=("token", "layer", "d")[: 1 + len(rest)],
                attributes=note if name == "activations" else {},
                overwrite=True,
            )


def _checksum(path: Path) -> str | None:
    if not path.is_file():  # Zarr leaves a shard out that holds nothing but zeros
        return "empty"
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _statistics(activations: Bits, norm: NDArray[np.float32]) -> Statistics:
    sums = [to_float32(activations[:, layer]).sum(axis=0, dtype=np.float64) for layer in range(activations.shape[1])]
    return Statistics(
        count=len(activations),
        sum=np.stack(sums).tolist(),
        norm_sum=norm.sum(axis=0, dtype=np.float64).tolist(),
        norm_squared_sum=np.square(norm, dtype=np.float64).sum(axis=0).tolist(),
    )
