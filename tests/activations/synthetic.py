"""Activation stores with known content."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgen.activations.layout import Layout
from rlgen.activations.writer import StoreWriter


def write_store(
    folder: Path,
    model: str,
    acts_NLD: NDArray[np.float32],
    tokens: NDArray[np.int32] | None = None,
    documents: NDArray[np.int32] | None = None,
    **layout: Any,
) -> Path:
    """A float32 store of the given activations, with layers 1, 2, ..., in `folder`; `layout` changes its attributes."""
    count, layers, d = acts_NLD.shape
    chosen: dict[str, Any] = {
        "model": model,
        "model_digest": model,
        "tokenizer_digest": "t",
        "corpus_digest": "c",
        "layers": list(range(1, layers + 1)),
        "d": d,
        "dtype": "float32",
        "part": 0,
        "parts": 1,
        "tokens": count,
        "first_shard": 0,
        "codec": "none",
        "chunk_tokens": 64,
        "shard_tokens": 256,
    }
    found = Layout(**chosen | layout)
    scratch = folder.with_name(folder.name + ".scratch")
    scratch.mkdir(parents=True)
    writer = StoreWriter(folder, scratch, found)
    numbers = np.arange(count, dtype=np.int32) if tokens is None else tokens
    small: dict[str, NDArray[Any]] = {
        "tokens": numbers,
        "document": numbers // 100 if documents is None else documents,
        "position": np.arange(count),
        "norm": np.linalg.norm(acts_NLD, axis=-1).astype(np.float32),
    }
    for shard in range(found.shards):
        where = found.shard(shard)
        values = {name: value[where] for name, value in small.items()}
        writer.write(shard, acts_NLD[where], values, acts_NLD[where].sum(axis=0, dtype=np.float64))
    writer.finish()
    return folder


def numbered(count: int, models: int, d: int = 3) -> list[NDArray[np.float32]]:
    """Per model, activations [count, 1, d] that tell their token (first entry) and their model (second)."""
    acts = np.ones((models, count, 1, d), dtype=np.float32)
    acts[..., 0] = np.arange(count)[None, :, None]
    acts[..., 1] = np.arange(models)[:, None, None]
    return list(acts)
