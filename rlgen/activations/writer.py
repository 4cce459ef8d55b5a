"""Writes one part of an activation store, shard by shard; a shard is the unit of resuming."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from rlgen.activations.chunks import write_shard
from rlgen.activations.layout import ACTIVATIONS, METADATA, SMALL, Attributes, Bits, Layout, Statistics, shard_file
from rlgen.errors import StudyError
from rlgen.stage import atomic_path, file_digest, json_digest, write_json

_CREATED = "array-created"

Values = dict[str, NDArray[Any]]


class StoreWriter:
    """A part under way in `folder`; what has been written is noted, with checksums, in `scratch`.

    Shards may be written in any order, by several threads or processes.
    """

    def __init__(self, folder: Path, scratch: Path, layout: Layout) -> None:
        self.folder, self.scratch, self.layout = folder, scratch, layout
        if not (scratch / _CREATED).exists():
            self._create()
            (scratch / _CREATED).touch()

    def done(self, shard: int) -> bool:
        """Whether that shard is there and is what was written: its file is read and its checksum compared."""
        if not (self.recorded(shard) and self._small(shard).is_file()):
            return False
        expected = json.loads(self._record(shard).read_text())["checksum"]
        if expected is None:
            return True
        file = shard_file(self.folder, ACTIVATIONS, shard)
        return file.is_file() and file_digest(file) == expected

    def recorded(self, shard: int) -> bool:
        """Whether that shard has been written, by whichever process; what is in its file now is not looked at."""
        return self._record(shard).is_file()

    def write(self, shard: int, activations: Bits | None, small: Values, sum_LD: NDArray[np.float64] | None) -> None:
        """Write a whole shard: `activations` [n, layers, d] with their sum over its tokens, and its other arrays.

        A store that computes its activations when they are read is given None. Raises StudyError if the shard cannot be
        written, for instance because the disk is full.
        """
        checksum, statistics = None, None
        with self._writing(f"shard {shard}"):
            if activations is not None and sum_LD is not None:
                file = shard_file(self.folder, ACTIVATIONS, shard)
                count = self.layout.shard_tokens // self.layout.chunk_tokens * len(self.layout.layers)
                checksum = write_shard(file, _chunks(activations, self.layout.chunk_tokens), count, self.layout.codec)
                statistics = _statistics(sum_LD, small["norm"]).model_dump()
            with atomic_path(self._small(shard)) as temporary, temporary.open("wb") as handle:
                np.savez(handle, allow_pickle=False, **small)
            write_json(self._record(shard), {"checksum": checksum, "statistics": statistics})

    def finish(self) -> str:
        """When all shards are written: write the other arrays and the group's attributes; returns the digest."""
        shards = range(self.layout.shards)
        records = [json.loads(self._record(shard).read_text()) for shard in shards]
        names = [name for name in SMALL if name != "norm" or self.layout.source is None]
        pieces: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        for shard in shards:
            with np.load(self._small(shard)) as found:
                for name in names:
                    pieces[name].append(found[name])
        checksums = {} if self.layout.source else {ACTIVATIONS: [record["checksum"] for record in records]}
        for name in names:
            with self._writing(f"array `{name}`"):
                self._array(name, SMALL[name], np.concatenate(pieces.pop(name)))
            checksums[name] = [file_digest(shard_file(self.folder, name, 0))]
        statistics = [Statistics(**record["statistics"]) for record in records if record["statistics"]]
        attributes = Attributes(
            **self.layout.model_dump(),
            statistics=Statistics.total(statistics) if statistics else None,
            checksums=checksums,
        ).model_dump(mode="json")
        write_json(self.folder / METADATA, {"zarr_format": 3, "node_type": "group", "attributes": attributes})
        return json_digest(attributes)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StudyError(
                f"{self.folder}: {what} cannot be written ({error.strerror}); free space or permit writing; "
                "the shards before it are kept"
            ) from None

    def _record(self, shard: int) -> Path:
        return self.scratch / f"shard-{shard:06d}.json"

    def _small(self, shard: int) -> Path:
        return self.scratch / f"shard-{shard:06d}.npz"

    def _create(self) -> None:
        layout, layers = self.layout, len(self.layout.layers)
        if layout.source is not None:
            return
        bf16 = layout.dtype == "bfloat16"
        zarr.create_array(
            self.folder / ACTIVATIONS,
            shape=(layout.tokens, layers, layout.d),
            chunks=(layout.chunk_tokens, 1, layout.d),
            shards=(layout.shard_tokens, layers, layout.d),
            dtype="uint16" if bf16 else "float32",
            compressors=_compressors(layout),
            attributes={"encoding": "bfloat16 bits in uint16"} if bf16 else {},
            dimension_names=("token", "layer", "d"),
            **_COMMON,
        )

    def _array(self, name: str, dtype: str, values: NDArray[Any]) -> None:
        """One of the small arrays, in one file."""
        chunk, rest = self.layout.chunk_tokens, values.shape[1:]
        array = zarr.create_array(
            self.folder / name,
            shape=values.shape,
            chunks=(chunk, *(1 for _ in rest)),
            shards=(-(-len(values) // chunk) * chunk, *rest),
            dtype=dtype,
            compressors=[Crc32cCodec()],
            dimension_names=("token", "layer")[: values.ndim],
            **_COMMON,
        )
        array[:] = values


_COMMON: dict[str, Any] = {"fill_value": 0, "overwrite": True, "config": {"write_empty_chunks": True}}


def _compressors(layout: Layout) -> list[Any]:
    """Every chunk ends with its CRC, so that whoever reads it sees whether it is what was written."""
    size = 2 if layout.dtype == "bfloat16" else 4
    compressors = {
        "none": [],
        "lz4": [BloscCodec(typesize=size, cname="lz4", clevel=5, shuffle="bitshuffle")],
        "zstd": [ZstdCodec(level=1)],
    }
    return [*compressors[layout.codec], Crc32cCodec()]


def _chunks(acts_NLD: Bits, size: int) -> Iterator[Bits]:
    """A shard's chunks in C order, [size, d] each; the last is filled up with zeros."""
    for start in range(0, len(acts_NLD), size):
        for layer in range(acts_NLD.shape[1]):
            chunk_ND = acts_NLD[start : start + size, layer]
            if len(chunk_ND) < size:
                chunk_ND = np.concatenate(
                    [chunk_ND, np.zeros((size - len(chunk_ND), chunk_ND.shape[1]), chunk_ND.dtype)]
                )
            yield chunk_ND


def _statistics(sum_LD: NDArray[np.float64], norm_NL: NDArray[np.float32]) -> Statistics:
    return Statistics(
        count=len(norm_NL),
        sum=sum_LD.tolist(),
        norm_sum=norm_NL.sum(axis=0, dtype=np.float64).tolist(),
        norm_squared_sum=np.square(norm_NL, dtype=np.float64).sum(axis=0).tolist(),
    )
