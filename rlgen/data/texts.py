"""Where the corpus' documents come from: texts of every source, tokenised, and mixed by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rlgen.data.hub import read_hub
from rlgen.data.jsonl import read_rows
from rlgen.data.miniature import mixture
from rlgen.data.problems import read_problems
from rlgen.errors import StudyError
from rlgen.stage import derive_seed
from rlgen.study.sections import HubText, JsonlText, MiniatureText, PretrainedBase, Text
from rlgen.study.stages import CorpusSettings
from rlgen.token_sets import encode_documents

Ids = NDArray[np.int32]

_BATCH = 256
"""Documents tokenised together."""


Document = str | tuple[str, str]
"""A text, or a prompt and its solution, which are encoded as a training example is."""


def texts(settings: CorpusSettings, index: int, problems: Path | None, revision: str | None) -> Iterator[Document]:
    """A source's documents, without end; `revision` is the commit of one on the hub.

    Raises StudyError if the source is of problems and there are none, or has no text.
    """
    source: Text = settings.corpus.sources[index]
    key = f"corpus.sources.{index}"
    if isinstance(source, MiniatureText):
        base = settings.base
        if not isinstance(base, PretrainedBase):
            raise StudyError(f"{key}: `miniature` is the text of a base with `method: pretrain`; take another source")
        rng = np.random.default_rng(derive_seed(settings.seed, "corpus", index))
        return mixture(rng, base.think_rate, base.guess_accuracy)
    if isinstance(source, JsonlText):
        path, name = source.path, source.field
        return _again(lambda: _of_file(path, name, key), f"{key}.path: {path}")
    if isinstance(source, HubText):
        return _again(lambda: _streamed(source, revision, key), f"{key}.path: {source.path}")
    if problems is None:
        raise StudyError(f"{key}: `problems` is the text of training problems, and there are none; take another source")
    return _again(lambda: _solved(problems), f"{key}: the problems with a solution")


def _of_file(path: Path, field: str, key: str) -> Iterator[str]:
    """Yield the texts of a local file; an empty one is refused."""
    try:
        for row in read_rows(path):
            text = row.document(field)
            if not text.strip():
                raise row.wrong(field, "is empty; write a text, or leave out the row")
            yield text
    except StudyError as error:
        raise StudyError(f"{key}: {error}") from None


def _streamed(source: HubText, revision: str | None, key: str) -> Iterator[str]:
    """Yield the texts of a data set in its own order; empty ones are left out."""
    for row in read_hub(source.path, source.name, source.split, revision, key):
        if text := row.document(source.field):
            yield text


def _solved(problems: Path) -> Iterator[Document]:
    return ((row["prompt"], row["solution"]) for row in read_problems(problems) if row["solution"])


def _again(texts: Callable[[], Iterable[Document]], name: str) -> Iterator[Document]:
    """The texts, from their start again when they end."""
    while True:
        empty = True
        for text in texts():
            empty = False
            yield text
        if empty:
            raise StudyError(f"{name}: no text there")


class Encoder:
    """From documents to token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: Iterator[Document]) -> Iterator[Ids]:
        while batch := list(islice(texts, _BATCH)):
            for ids in encode_documents(self._tokenizer, batch):
                yield np.array(ids, dtype=np.int32)


@dataclass
class Stream:
    """A source while it is read."""

    source: Text
    ids: Iterator[Ids]
    documents: int
    tokens: int


def interleave(streams: list[Stream]) -> Iterator[Ids]:
    """Documents of all sources: always of the one that is furthest behind its weight."""
    while True:
        stream = min(streams, key=lambda s: s.tokens / s.source.weight)
        ids = next(stream.ids)
        stream.documents += 1
        stream.tokens += len(ids)
        yield ids
