"""The corpus: token ids, in packed rows, on which every model's activations are taken."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from rlgen.data.hub import pins
from rlgen.data.jsonl import check_file
from rlgen.data.texts import Encoder, Ids, Stream, interleave, texts
from rlgen.errors import StudyError
from rlgen.models import load_tokenizer, vocabulary_difference
from rlgen.stage import Workspace, json_digest, stage, write_json
from rlgen.study.sections import HubText, JsonlText
from rlgen.study.stages import CorpusSettings
from rlgen.token_sets import document_beginning, not_beginning

TOKENS, DOCUMENTS, MASK, CORPUS_JSON = "tokens.npy", "documents.npy", "mask.npy", "corpus.json"
VOCABULARY = "vocabulary.json"

_WHOLE = 4
"""A document of up to a row's length over this is never cut in two."""
_POSITION = "position.json"
"""In the scratch folder: where to go on."""
_SAVE_EVERY = 20.0
"""Seconds between positions; at most so much work is lost."""


def make_corpus(settings: CorpusSettings, base: Path, problems: Path | None, out: Path) -> None:
    """Write tokens.npy and documents.npy (int32), mask.npy (bool), all [rows, row_length], corpus.json and the
    tokenizer's vocabulary.json.

    A document is its text, encoded as the base is given a prompt (with the tokenizer's beginning token where it adds
    one), and the end token. A problem and its solution have the ids on which supervised fine-tuning trains.
    `documents` numbers them from 0 (padding: -1); `mask` is False for beginning tokens and padding, which are
    left out of everything. The sources' shares of the documents' tokens follow their weights. Raises StudyError if a
    source is empty, or is of problems and there are no `problems`, or if the corpus is smaller than one row.
    """
    inputs = {"base": base} | ({"problems": problems} if problems else {})
    sources = settings.corpus.sources
    for i, source in enumerate(sources):
        if isinstance(source, JsonlText):
            check_file(source.path, f"corpus.sources.{i}.path")
            inputs[f"source {i}"] = source.path
    inputs |= {f"source {i}": Path(s.path) for i, s in enumerate(sources) if isinstance(s, HubText) and s.local}
    length = settings.corpus.row_length
    rows = settings.corpus.tokens // length
    if not rows:
        raise StudyError(
            f"corpus.tokens: {settings.corpus.tokens} is less than one row of {length} (corpus.row_length)"
        )
    with stage("corpus", settings, inputs, out) as work:
        tokenizer = load_tokenizer(base)
        position = _Position.of(work, len(sources))
        encode = Encoder(tokenizer)
        hub = {f"corpus.sources.{i}": (s.path, s.revision) for i, s in enumerate(sources) if isinstance(s, HubText)}
        commits = pins(work, hub)
        revisions = [commits.get(f"corpus.sources.{index}") for index in range(len(sources))]
        streams = []
        for index, (documents, tokens) in enumerate(position.streams):
            rest = islice(texts(settings, index, problems, revisions[index]), documents, None)
            streams.append(Stream(sources[index], encode(rest), documents, tokens))
        _write(work, position, streams, (rows, length), document_beginning(tokenizer), tokenizer.pad_token_id or 0)
        work.digest = _digest(work.folder)
        about = {
            "digest": work.digest,
            "rows": rows,
            "row_length": length,
            **_counts(work.folder),
            "vocabulary": len(tokenizer),
            "vocabulary_digest": json_digest(sorted(tokenizer.get_vocab().items())),
            "separate_documents": settings.corpus.separate_documents,
            "sources": [
                {"source": s.source.source, "revision": revision, "documents": s.documents, "tokens": s.tokens}
                for s, revision in zip(streams, revisions, strict=True)
            ],
        }
        write_json(work.folder / CORPUS_JSON, about)
        write_json(work.folder / VOCABULARY, tokenizer.get_vocab())


def check_vocabulary(corpus: Path, model: Path) -> None:
    """Raises StudyError unless every token of the corpus has the same id in the model's tokenizer; it may have more."""
    own = json.loads((corpus / VOCABULARY).read_text())
    theirs = load_tokenizer(model).get_vocab()
    if difference := vocabulary_difference(own, theirs, ("the corpus", "the model")):
        raise StudyError(
            f"{corpus} and {model} have different tokenizers: {difference}; "
            "the models of a study must share the tokenizer"
        )


def _counts(folder: Path) -> dict[str, int]:
    """Tokens that count, and those that are left out."""
    documents, mask = (np.load(folder / name, mmap_mode="r") for name in (DOCUMENTS, MASK))
    kept, padding = int(np.count_nonzero(mask)), int(np.count_nonzero(documents < 0))
    return {"kept_tokens": kept, "bos_tokens": mask.size - kept - padding, "padding_tokens": padding}


def read_corpus(folder: Path) -> tuple[dict[str, Any], Ids, Ids, NDArray[np.bool_]]:
    """corpus.json, and tokens, documents and mask as memory maps [rows, row_length]."""
    about = json.loads((folder / CORPUS_JSON).read_text())
    tokens, documents, mask = (np.load(folder / name, mmap_mode="r") for name in (TOKENS, DOCUMENTS, MASK))
    return about, tokens, documents, mask


def model_inputs(folder: Path, rows: slice | NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """What a model is given of some rows: `input_ids`, and `position_ids` if documents are kept apart; [rows, length].

    Positions that start anew also keep the documents of a row from attending to one another: transformers takes
    a position that does not follow the last as a new sequence, if no attention mask says otherwise.
    """
    about, tokens, documents, _ = read_corpus(folder)
    inputs = {"input_ids": tokens[rows].astype(np.int64)}
    if about["separate_documents"]:
        inputs["position_ids"] = _separate_positions(documents[rows])
    return inputs


def _separate_positions(documents_BT: Ids) -> NDArray[np.int64]:
    """Each token's place in its document's piece of the row."""
    places_BT = np.broadcast_to(np.arange(documents_BT.shape[1], dtype=np.int64), documents_BT.shape)
    begins_BT = np.ones(documents_BT.shape, dtype=bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return places_BT - np.maximum.accumulate(np.where(begins_BT, places_BT, 0), axis=1)


Row = list[tuple[int, Ids]]
"""Pieces of documents: a document's number, and ids."""


def _pack(row: Row, number: int, document: Ids, length: int) -> list[Row]:
    """A row with room left and the next document: the rows that are full then, and the one that is not.

    Short documents stay whole, long ones go on in the next row.
    """
    found, rest = [row], document
    room = length - sum(len(piece) for _, piece in row)
    if room < len(rest) <= length // _WHOLE:
        found, room = [row, []], length
    while len(rest):
        piece, rest = rest[:room], rest[room:]
        found[-1].append((number, piece))
        room -= len(piece)
        if not room:
            found.append([])
            room = length
    return found


@dataclass
class _Position:
    """Where the corpus has got to, between two documents."""

    rows: int
    """Full rows."""
    row: Row
    """The one that is not."""
    streams: list[tuple[int, int]]
    """Documents and tokens of each source so far."""

    @classmethod
    def of(cls, work: Workspace, sources: int) -> _Position:
        """Where an earlier run got to, or the start."""
        file = work.scratch / _POSITION
        if not file.exists():
            return cls(0, [], [(0, 0)] * sources)
        found = json.loads(file.read_text())
        row = [(number, np.array(ids, dtype=np.int32)) for number, ids in found["row"]]
        return cls(found["rows"], row, [(documents, tokens) for documents, tokens in found["streams"]])

    def save(self, work: Workspace) -> None:
        """The rows must be on disk."""
        row = [(number, ids.tolist()) for number, ids in self.row]
        write_json(work.scratch / _POSITION, {"rows": self.rows, "row": row, "streams": self.streams})


def _write(
    work: Workspace, at: _Position, streams: list[Stream], shape: tuple[int, int], bos: int | None, pad: int
) -> None:
    """All rows from a position on."""
    rows, length = shape
    mode: Literal["r+", "w+"] = "r+" if at.rows else "w+"
    tokens = open_memmap(work.folder / TOKENS, mode=mode, dtype=np.int32, shape=shape)
    documents = open_memmap(work.folder / DOCUMENTS, mode=mode, dtype=np.int32, shape=shape)
    mask = open_memmap(work.folder / MASK, mode=mode, dtype=np.bool_, shape=shape)
    progress = work.progress(rows, "rows", done=at.rows)
    saved = time.monotonic()
    merged = interleave(streams)
    while at.rows < rows:
        number = sum(stream.documents for stream in streams)
        *full, at.row = _pack(at.row, number, next(merged), length)
        for row in full[: rows - at.rows]:
            ids, numbers = np.full(length, pad, dtype=np.int32), np.full(length, -1, dtype=np.int32)
            end = 0
            for owner, piece in row:
                start, end = end, end + len(piece)
                ids[start:end], numbers[start:end] = piece, owner
            tokens[at.rows], documents[at.rows] = ids, numbers
            mask[at.rows] = (numbers >= 0) & not_beginning(ids, bos)
            at.rows += 1
        progress.to(at.rows)
        if at.rows == rows or time.monotonic() - saved > _SAVE_EVERY:
            for array in (tokens, documents, mask):
                array.flush()
            at.streams = [(stream.documents, stream.tokens) for stream in streams]
            at.save(work)
            saved = time.monotonic()


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for name in (TOKENS, DOCUMENTS, MASK):
        with (folder / name).open("rb") as handle:
            total.update(hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()
