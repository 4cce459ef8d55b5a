"""What is in a store, and whether it is still what was written: `rlgen store info` and `rlgen store verify`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rlgen.activations.layout import ACTIVATIONS, METADATA, SMALL, Attributes, read_attributes, shard_file
from rlgen.activations.store import Part, open_part
from rlgen.errors import StudyError
from rlgen.formats import MANIFEST
from rlgen.stage import file_digest, json_digest, read_manifest

_GB = 1e9


def parts_of(path: Path) -> list[Path]:
    """The part at `path`, or all parts in that folder. Raises StudyError if there is none."""
    found = [path] if (path / METADATA).is_file() else sorted(p.parent for p in path.glob(f"*/{METADATA}"))
    if not found:
        raise StudyError(f"{path}: no activation store there; give a part (part-000.zarr) or the folder of its parts")
    return found


def info(path: Path) -> str:
    """A store's shape, size and provenance, in lines; reads metadata alone."""
    parts = [read_attributes(part) for part in parts_of(path)]
    first, tokens = parts[0], sum(part.tokens for part in parts)
    where = "computed when read" if first.source else f"codec {first.codec}"
    rows = {
        "model": f"{first.model} ({first.model_digest[:12]})",
        "corpus": f"{first.corpus_digest[:12]}, vocabulary {first.tokenizer_digest[:12]}",
        "parts": f"{len(parts)} of {first.parts}",
        "shape": f"{tokens:,} tokens x {len(first.layers)} layers x {first.d}",
        "layers": ", ".join(map(str, first.layers)),
        "dtype": f"{first.dtype}, {where}",
        "size": f"{sum(part.bytes for part in parts) / _GB:,.3f} GB uncompressed",
        "shards": f"{sum(part.shards for part in parts):,} of {first.shard_tokens:,} tokens, "
        f"chunks of {first.chunk_tokens:,}",
    }
    if all(part.statistics for part in parts):
        norms = np.sum([part.statistics.norm_sum for part in parts if part.statistics], axis=0) / tokens
        rows["mean norm"] = ", ".join(f"{norm:.3g}" for norm in norms)
    manifest = parts_of(path)[0] / MANIFEST
    if manifest.is_file():
        made = read_manifest(manifest.parent)
        versions = made["versions"]
        rows["made by"] = f"rlgen {versions['rlgen']}, torch {versions['torch']}, commit {made['git_commit']}"
    return "\n".join(f"{name:<10} {value}" for name, value in rows.items())


def verify(path: Path) -> Iterator[str]:
    """Reads every byte of a store; yields a line for each fault found, with part, shard and token range."""
    for folder in parts_of(path):
        part = open_part(folder)
        attributes = part.attributes
        manifest = folder / MANIFEST
        if manifest.is_file() and read_manifest(folder)["digest"] != json_digest(attributes.model_dump(mode="json")):
            yield f"{folder}: {METADATA} is not what was written"
        for name, checksums in attributes.checksums.items():
            if len(checksums) != (attributes.shards if name == ACTIVATIONS else 1):
                yield f"{folder}: array `{name}` has {len(checksums)} shards noted in {METADATA}"
                continue
            for shard, expected in enumerate(checksums):
                file = shard_file(folder, name, shard)
                if not file.is_file():
                    yield f"{_where(attributes, folder, name, shard)}: {file} is missing"
                elif file_digest(file) != expected:
                    yield from _faults(part, name, shard)


def _faults(part: Part, name: str, shard: int) -> Iterator[str]:
    """Which chunks of a shard that is not what was written are damaged."""
    attributes = part.attributes
    per_shard = attributes.shard_tokens // attributes.chunk_tokens if name == ACTIVATIONS else part.chunks
    chunks = range(shard * per_shard, min((shard + 1) * per_shard, part.chunks))
    found = False
    for chunk in chunks:
        tokens = part.chunk(chunk)
        for layer, number in enumerate(attributes.layers if name in (ACTIVATIONS, "norm") else [None]):
            try:
                _read(part, name, chunk, layer)
            except StudyError:
                found = True
                yield _where(attributes, part.path, name, shard, tokens, number) + ": a checksum is wrong"
    if not found:
        yield _where(attributes, part.path, name, shard) + ": the file is not the one that was written"


def _read(part: Part, name: str, chunk: int, layer: int) -> None:
    tokens = part.chunk(chunk)
    count = tokens.stop - tokens.start
    if name == ACTIVATIONS:
        dtype = np.uint16 if part.attributes.dtype == "bfloat16" else np.float32
        part.read_activations(chunk, layer, np.empty((count, part.attributes.d), dtype=dtype))
    else:
        part.read_small(name, chunk, layer, np.empty(count, dtype=SMALL[name]))


def _where(
    attributes: Attributes,
    folder: Path,
    name: str,
    shard: int,
    tokens: slice | None = None,
    layer: int | None = None,
) -> str:
    covered = tokens or (attributes.shard(shard) if name == ACTIVATIONS else slice(0, attributes.tokens))
    after = "" if layer is None else f" after layer {layer}"
    return (
        f"{folder}: part {attributes.part}, array `{name}`, shard {shard}, "
        f"tokens {covered.start:,} to {covered.stop - 1:,}{after}"
    )
