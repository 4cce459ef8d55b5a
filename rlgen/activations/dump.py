"""Model and corpus to one part of an activation store."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch

from rlgen.activations.compute import Computed, check_separation, compute
from rlgen.activations.layout import SMALL, Layout, Source, from_torch
from rlgen.activations.slices import Places, Slices
from rlgen.activations.writer import StoreWriter, Values
from rlgen.data.corpus import check_vocabulary, read_corpus
from rlgen.errors import StudyError
from rlgen.models import load_config, load_model
from rlgen.paths import model_name
from rlgen.stage import Workspace, stage
from rlgen.study.stages import DumpSettings

WRITERS_OF_GPU = 4
"""Threads that write while a GPU computes; so many shards and one more are in memory. A CPU has one such thread."""
_POLL = 2.0
"""Seconds between looks at what other processes have done."""
_PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process is sent when its parent ends."""


def dump(settings: DumpSettings, *, model: Path, corpus: Path, out: Path, ranks: int | None = None) -> None:
    """Residual-stream activations of `model` on its part of `corpus`.

    `ranks` processes share the work, each with a GPU of its own if there are any; by default as many as there are.
    Raises StudyError if the model yields NaN or infinity, lacks a layer or has another tokenizer than the corpus.
    """
    with stage("dump", settings, {"model": model, "corpus": corpus}, out) as work:
        slices = Slices(corpus, work.inputs["corpus"], settings.activations.shard_tokens, settings.tokens)
        shards = slices.part(settings.part, settings.activations.parts)
        check_vocabulary(corpus, model)
        layout = _layout(settings, model, corpus, work, slices, shards)
        writer = StoreWriter(work.folder, work.scratch, layout)
        todo = [shard for shard in range(layout.shards) if not writer.done(shard)]
        progress = work.progress(layout.tokens, "tokens", done=layout.tokens - _tokens(layout, todo))
        ranks = min(ranks or max(1, torch.cuda.device_count()), max(1, len(todo)))
        if layout.source is not None:
            for shard in todo:
                writer.write(shard, None, _small(slices, slices.shard(shards.start + shard)), None)
        else:
            given = (settings, model, slices, shards, writer, todo)
            for shard in write_shards(*given) if ranks == 1 else _in_processes(ranks, *given):
                progress.add(_tokens(layout, [shard]))
        work.digest = writer.finish()


def write_shards(
    settings: DumpSettings, model: Path, slices: Slices, shards: range, writer: StoreWriter, todo: list[int]
) -> Iterator[int]:
    """Compute and write the shards `todo` of a part; writing overlaps computing. Yields each when it is written."""
    network = load_model(model)
    layout = writer.layout
    check_separation(network, slices, max(layout.layers))
    running: deque[tuple[int, Future[None]]] = deque()
    writers = WRITERS_OF_GPU if network.device.type == "cuda" else 1
    with ThreadPoolExecutor(writers) as pool:
        try:
            for shard in todo:
                places_N = slices.shard(shards.start + shard)
                found = compute(network, slices, places_N, layout.layers, layout.dtype, settings.activations.batch_rows)
                if len(running) == writers:
                    yield _finished(running)
                running.append((shard, pool.submit(_write, writer, shard, found, slices, places_N)))
            while running:
                yield _finished(running)
        finally:
            pool.shutdown(cancel_futures=True)


def _in_processes(
    ranks: int, settings: DumpSettings, model: Path, slices: Slices, shards: range, writer: StoreWriter, todo: list[int]
) -> Iterator[int]:
    """As `write_shards`, by several processes, of which each takes every `ranks`-th shard."""
    threads = max(1, torch.get_num_threads() // ranks)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(ranks, mp_context=spawn, initializer=_die_with_parent) as pool:
        given = (settings, model, slices.folder, writer.folder, writer.scratch, writer.layout, shards)
        futures = [pool.submit(_rank, rank, threads, todo[rank::ranks], *given) for rank in range(ranks)]
        left = list(todo)
        while left:
            running = wait(futures, timeout=_POLL, return_when=FIRST_EXCEPTION).not_done
            for future in futures:
                if future.done():
                    future.result()
            written = left if not running else [shard for shard in left if writer.recorded(shard)]
            left = [shard for shard in left if shard not in written]
            yield from written


def _rank(
    rank: int,
    threads: int,
    todo: list[int],
    settings: DumpSettings,
    model: Path,
    corpus: Path,
    folder: Path,
    scratch: Path,
    layout: Layout,
    shards: range,
) -> None:
    """One of several processes that dump a part."""
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    slices = Slices(corpus, layout.corpus_digest, layout.shard_tokens, settings.tokens)
    for _ in write_shards(settings, model, slices, shards, StoreWriter(folder, scratch, layout), todo):
        pass


def _die_with_parent() -> None:
    """A killed job's processes must not go on writing where the next one starts."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _finished(running: deque[tuple[int, Future[None]]]) -> int:
    shard, future = running.popleft()
    future.result()
    return shard


def _write(writer: StoreWriter, shard: int, found: Computed, slices: Slices, places_N: Places) -> None:
    norm_NL = found.norm_NL.cpu().numpy()
    _check_finite(norm_NL, writer.layout, slices, places_N)
    writer.write(
        shard,
        from_torch(found.acts_NLD.cpu()),
        _small(slices, places_N) | {"norm": norm_NL},
        found.sum_LD.cpu().numpy(),
    )


def _small(slices: Slices, places_N: Places) -> Values:
    """What is stored of every token beside its activations."""
    row_N, column_N = np.divmod(places_N, slices.row_length)
    values: Values = {
        "tokens": slices.tokens[row_N, column_N],
        "document": slices.documents[row_N, column_N],
        "position": places_N,
    }
    return {name: array.astype(SMALL[name]) for name, array in values.items()}


def _layout(
    settings: DumpSettings, model: Path, corpus: Path, work: Workspace, slices: Slices, shards: range
) -> Layout:
    chosen = settings.activations
    config = load_config(model).get_text_config()
    for index, layer in enumerate(chosen.layers):
        if layer > config.num_hidden_layers:
            raise StudyError(
                f"activations.layers[{index}]: {layer}; {model} has blocks 1 to {config.num_hidden_layers}"
            )
    largest = int(slices.tokens.max())
    if largest >= config.vocab_size:
        raise StudyError(
            f"{model}: its embeddings end at id {config.vocab_size - 1:,}, the corpus holds id {largest:,}; "
            "the models of a study must share the tokenizer"
        )
    streamed = chosen.mode == "streamed"
    return Layout(
        model=model_name(model),
        model_digest=work.inputs["model"],
        tokenizer_digest=read_corpus(corpus)[0]["vocabulary_digest"],
        corpus_digest=work.inputs["corpus"],
        layers=chosen.layers,
        d=config.hidden_size,
        dtype=chosen.dtype,
        part=settings.part,
        parts=chosen.parts,
        tokens=slices.tokens_of(shards),
        first_shard=shards.start,
        chunk_tokens=chosen.chunk_tokens,
        shard_tokens=chosen.shard_tokens,
        codec=chosen.codec,
        source=Source(model=str(model), corpus=str(corpus), batch_rows=chosen.batch_rows) if streamed else None,
    )


def _tokens(layout: Layout, shards: list[int]) -> int:
    return sum(layout.shard(shard).stop - layout.shard(shard).start for shard in shards)


def _check_finite(norm_NL: np.ndarray, layout: Layout, slices: Slices, places_N: Places) -> None:
    bad_NL = ~np.isfinite(norm_NL)
    if bad_NL.any():
        layers = [layer for layer, any_bad in zip(layout.layers, bad_NL.any(axis=0).tolist(), strict=True) if any_bad]
        row, column = divmod(int(places_N[bad_NL.any(axis=1)].min()), slices.row_length)
        raise StudyError(
            f"model `{layout.model}`: {int(bad_NL.any(axis=1).sum()):,} tokens with NaN or infinite activations after "
            f"layers {layers}, the first at row {row}, column {column} of the corpus, in part {layout.part}; "
            f"its weights are broken, or overflow {layout.dtype}; the shards before it are kept"
        )
