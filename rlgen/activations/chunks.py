"""Zarr v3 shard files, chunk by chunk: one large read or write each, with its CRC. No torch here.

Zarr-python reads and writes the same files, at a fraction of the speed (tests/benchmarks/stores.py): this is the fast
way for the codecs that we use. A shard is its chunks, each followed by its CRC-32C, then an index with every chunk's
offset and length, and the index's CRC-32C.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
from numpy.typing import NDArray

from rlgen.errors import StudyError
from rlgen.stage import atomic_path
from rlgen.study.sections import Codec

CRC_BYTES = 4
_NOTHING = 2**64 - 1
_CODECS = {
    "lz4": numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE),
    "zstd": numcodecs.Zstd(level=1),
}


def write_shard(path: Path, chunks: Iterable[NDArray[Any]], count: int, codec: Codec) -> str:
    """Write a shard of `count` chunks, in C order of its grid; those after the last one given are marked as absent.

    The file appears under its name when it is whole. Returns its SHA-256.
    """
    index = np.full((count, 2), _NOTHING, dtype="<u8")
    total, offset = hashlib.sha256(), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb", buffering=0) as handle:

        def append(content: Any) -> int:
            pieces = [memoryview(content).cast("B"), memoryview(_crc(content))]
            for piece in pieces:
                total.update(piece)
                handle.write(piece)
            return sum(map(len, pieces))

        for number, chunk in enumerate(chunks):
            plain = np.ascontiguousarray(chunk)
            length = append(plain if codec == "none" else _CODECS[codec].encode(plain))
            index[number] = offset, length
            offset += length
        append(index)
    return total.hexdigest()


class ShardFile:
    """One shard of an array. Raises StudyError if it is missing, cut short, or its index is damaged.

    `copy` is read in its place, if it is given.
    """

    def __init__(self, path: Path, chunks: int, codec: Codec, copy: Path | None = None) -> None:
        self.path, self._codec, self._place = path, codec, copy or path
        length = chunks * 16
        try:
            with self._place.open("rb") as handle:
                handle.seek(-length - CRC_BYTES, os.SEEK_END)
                tail = handle.read()
        except OSError as error:
            raise StudyError(f"{path}: cannot be read ({error.strerror}); dump that part again") from None
        if _crc(memoryview(tail)[:length]) != tail[length:]:
            raise StudyError(f"{path}: the index of its chunks is damaged; dump that part again")
        self._index = np.frombuffer(tail, dtype="<u8", count=chunks * 2).reshape(chunks, 2)

    def read(self, chunk: int, out: NDArray[Any]) -> None:
        """Fill `out`, a contiguous array of the chunk's size, with chunk `chunk` (in C order within the shard).

        Raises StudyError if what is there is not what was written.
        """
        offset, length = map(int, self._index[chunk])
        if offset == _NOTHING:
            raise StudyError(f"{self.path}: chunk {chunk} was never written; dump that part again")
        raw = memoryview(out).cast("B")  # type: ignore[arg-type]
        crc = bytearray(CRC_BYTES)
        payload = raw if self._codec == "none" else memoryview(bytearray(length - CRC_BYTES))
        with self._place.open("rb", buffering=0) as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # what lies beside it is not read next
            _read_fully(handle.fileno(), [payload, memoryview(crc)], offset)
        if len(payload) + CRC_BYTES != length or _crc(payload) != crc:
            raise StudyError(
                f"{self.path}: chunk {chunk} is damaged, its checksum is not what was written; "
                "`rlgen store verify` tells which tokens, and dumping that part again mends it"
            )
        if self._codec != "none":
            _CODECS[self._codec].decode(payload, out)


def _read_fully(descriptor: int, buffers: list[memoryview], offset: int) -> None:
    while buffers:
        count = os.preadv(descriptor, buffers, offset)
        if not count:
            return  # cut short: the checksum says so
        offset += count
        while buffers and count >= len(buffers[0]):
            count -= len(buffers.pop(0))
        if buffers and count:
            buffers[0] = buffers[0][count:]


def _crc(content: Any) -> bytes:
    return int(google_crc32c.value(np.frombuffer(content, dtype=np.uint8))).to_bytes(CRC_BYTES, "little")
