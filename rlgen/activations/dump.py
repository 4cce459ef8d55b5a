"""Model and corpus to one part of an activation store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from rlgen.activations.layout import Layout
from rlgen.activations.writer import StoreWriter
from rlgen.data.corpus import model_inputs, read_corpus
from rlgen.errors import StudyError
from rlgen.models import load_model, load_tokenizer, residuals
from rlgen.paths import model_name
from rlgen.stage import json_digest, stage
from rlgen.study.stages import DumpSettings


class CorpusPart:
    """One part's rows of the corpus and the tokens in them that count: BOS and padding are left out."""

    def __init__(self, corpus: Path, settings: DumpSettings) -> None:
        self.folder = corpus
        _, self.tokens, self.documents, mask = read_corpus(corpus)
        self.row_length = self.tokens.shape[1]
        parts, part, rows = settings.activations.parts, settings.part, len(self.tokens)
        if settings.tokens is not None:
            rows = min(rows, max(1, settings.tokens // self.row_length))
        self.rows = (part * rows // parts, (part + 1) * rows // parts)
        first = self.rows[0] * self.row_length
        self.kept: NDArray[np.int64] = first + np.flatnonzero(mask[slice(*self.rows)])
        """Where the tokens that count are in the flattened corpus, in order."""
        if not len(self.kept):
            raise StudyError(
                f"activations.parts: {parts}; of {rows} rows of {corpus}, part {part} gets no token; use fewer parts"
            )


def dump(settings: DumpSettings, *, model: Path, corpus: Path, out: Path) -> None:
    """Residual-stream activations of `model` on its part of `corpus`.

    Raises StudyError if the model yields NaN or infinity, lacks a layer or does not know the corpus' tokens.
    """
    with stage("dump", settings, {"model": model, "corpus": corpus}, out) as work:
        part = CorpusPart(corpus, settings)
        network = load_model(model)
        _check_vocabulary(network, part, model)
        layout = Layout(
            model=model_name(model),
            model_digest=work.inputs["model"],
            tokenizer_digest=_tokenizer_digest(model),
            corpus_digest=work.inputs["corpus"],
            layers=settings.activations.layers,
            d=network.config.get_text_config().hidden_size,
            dtype=settings.activations.dtype,
            part=settings.part,
            parts=settings.activations.parts,
            tokens=len(part.kept),
            rows=part.rows,
            chunk_tokens=settings.activations.chunk_tokens,
            shard_tokens=settings.activations.shard_tokens,
        )
        writer = StoreWriter(work.folder, work.scratch, layout)
        todo = [shard for shard in range(layout.shards) if not writer.done(shard)]
        left = sum(layout.shard(shard).stop - layout.shard(shard).start for shard in todo)
        progress = work.progress(layout.tokens, "tokens", done=layout.tokens - left)
        for shard in todo:
            where = layout.shard(shard)
            writer.write(shard, _compute(network, part, where, settings.activations.batch_rows, layout))
            progress.add(where.stop - where.start)
        work.digest = writer.finish()


def _compute(
    network: PreTrainedModel, part: CorpusPart, where: slice, batch_rows: int, layout: Layout
) -> dict[str, NDArray[Any]]:
    """The arrays of one shard, the part's tokens `where`.

    Batches are cut anew for every shard, so that a shard's bits do not depend on what was computed before it.
    """
    kept = part.kept[where]
    bf16 = layout.dtype == "bfloat16"
    acts_NLD = np.empty((len(kept), len(layout.layers), layout.d), dtype=np.uint16 if bf16 else np.float32)
    norm_NL = np.empty(acts_NLD.shape[:2], dtype=np.float32)
    first, last = int(kept[0]) // part.row_length, int(kept[-1]) // part.row_length + 1
    for start in range(first, last, batch_rows):
        stop = min(start + batch_rows, last)
        low, high = np.searchsorted(kept, (start * part.row_length, stop * part.row_length))
        inputs = {
            k: torch.from_numpy(v).to(network.device) for k, v in model_inputs(part.folder, slice(start, stop)).items()
        }
        flat_TLD = residuals(network, layout.layers, **inputs).flatten(0, 1)
        found_NLD = flat_TLD[torch.from_numpy(kept[low:high] - start * part.row_length).to(network.device)]
        found_NLD = found_NLD.to(getattr(torch, layout.dtype)).cpu()
        norms = found_NLD.float().norm(dim=-1)
        _check_finite(norms, layout, where.start + low, where.start + high)
        norm_NL[low:high] = norms.numpy()
        acts_NLD[low:high] = found_NLD.view(torch.int16).numpy().view(np.uint16) if bf16 else found_NLD.numpy()
    flat = {"tokens": part.tokens.reshape(-1), "document": part.documents.reshape(-1)}
    return {"activations": acts_NLD, "norm": norm_NL} | {name: values[kept] for name, values in flat.items()}


def _check_finite(norm_NL: Tensor, layout: Layout, start: int, stop: int) -> None:
    bad = ~torch.isfinite(norm_NL)
    if bad.any():
        layers = [layer for layer, any_bad in zip(layout.layers, bad.any(dim=0).tolist(), strict=True) if any_bad]
        raise StudyError(
            f"model `{layout.model}`: NaN or infinite activations after layers {layers} "
            f"in tokens {start:,} to {stop - 1:,} of part {layout.part}; "
            f"its weights are broken, or overflow {layout.dtype}"
        )


def _check_vocabulary(network: PreTrainedModel, part: CorpusPart, model: Path) -> None:
    size = network.get_input_embeddings().num_embeddings
    largest = int(part.tokens[slice(*part.rows)].max())
    if largest >= size:
        raise StudyError(
            f"{model}: knows {size:,} token ids, the corpus holds id {largest:,}; "
            "the models of a study must share the tokenizer"
        )


def _tokenizer_digest(model: Path) -> str:
    """What a tokenizer is known by: its vocabulary. Files differ between versions of the library, ids must not."""
    return json_digest(sorted(load_tokenizer(model).get_vocab().items()))
