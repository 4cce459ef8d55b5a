"""Data sets of the Hugging Face hub, or of a folder of data files: pinned to a commit, streamed row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlgen.data.folders import rows_of, split_files
from rlgen.data.rows import Row
from rlgen.data.values import Number
from rlgen.errors import StudyError
from rlgen.stage import Workspace, write_json

EXPORT = "refs/convert/parquet"
"""The revision at which the hub keeps its own export of a data set, as <configuration>/<split>/<number>.parquet."""
_PINS = "pins.json"
"""In the scratch folder: the commits that were pinned when the stage was begun."""
_TOLD = 300
"""Characters of what the library says that a message quotes."""


def pin(path: str, revision: str | None, key: str) -> str | None:
    """The commit that a revision of a data set is now; None for a folder. `key` is where in the study it stands.

    Raises StudyError if the hub does not know it or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if Path(path).is_dir():
        return None
    try:
        return str(HfApi().dataset_info(path, revision=revision).sha)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise StudyError(
            f"{key}: data set {path}{at} cannot be found on the hub: {error}; correct it, or give a folder of its files"
        ) from None


def pins(work: Workspace, wanted: Mapping[str, tuple[str, str | None]]) -> dict[str, str | None]:
    """Commits of data sets, given as (path, revision) by where in the study they stand.

    They are pinned once: a stage that is resumed goes on with the commits that it was begun with.
    """
    file = work.scratch / _PINS
    if not file.exists():
        write_json(file, {key: pin(path, revision, key) for key, (path, revision) in wanted.items()})
    found: dict[str, str | None] = json.loads(file.read_text())
    return found


def read_hub(
    path: str, name: str | None, split: str, revision: str | None, key: str, files: str | None = None
) -> Iterator[Row]:
    """Read the rows of a data set's split in its own order. Nothing is kept on disk.

    Args:
        path: An id on the hub, or a folder of data files. JSON, CSV and TSV files of a folder are read as they were
            written; all others are read by `datasets`, which knows or guesses the types of the columns.
        name: The configuration; the only one if None.
        split: The split.
        revision: The commit on the hub.
        key: Where in the study the data set stands, for messages.
        files: The pattern of the split's files if the data set does not name them itself. The files stand for the
            configuration `name`.

    Returns:
        The rows, which know the data set and their number, and their file and line where it is known.

    Raises:
        StudyError: The data set cannot be read. `key`, data set, split and, if known, the row are named.
    """
    where = f"{key}: {path} ({split})"
    which: dict[str, Any] = {"name": name} if files is None else {"data_files": {split: files}}
    here = _here(path, which, split, where) if Path(path).is_dir() else None
    if here is None:
        yield from _by_library(path, which, split, revision, where)
        return
    try:
        for number, row in enumerate(rows_of(here), start=1):
            yield Row(f"{key}: {row.where}, in {path} ({split}), row {number}", number, row.values)
    except StudyError as error:
        raise StudyError(f"{key}: {error}") from None


def _here(path: str, which: dict[str, Any], split: str, where: str) -> list[Path] | None:
    """Return the files of a folder's split if they are read as they were written."""
    from datasets import load_dataset_builder

    try:
        return split_files(load_dataset_builder(path, **which), split)
    except Exception as error:
        raise _unreadable(where, error) from None


def _by_library(path: str, which: dict[str, Any], split: str, revision: str | None, where: str) -> Iterator[Row]:
    """Yield the rows that `datasets` reads."""
    from datasets import load_dataset

    number = 0
    try:
        rows = load_dataset(path, **which, split=split, revision=revision, streaming=True)
        short = [name for name, kind in (getattr(rows, "features", None) or {}).items() if _is_short(kind)]
        for number, values in enumerate(rows, start=1):
            for name in short:
                if values[name] is not None:
                    values[name] = Number(str(np.float32(values[name])))
            yield Row(f"{where}, row {number}", number, values)
    except Exception as error:  # a guess that a later row contradicts may raise anything, TypeError for instance
        raise _unreadable(f"{where}, after row {number}" if number else where, error) from None


def _is_short(kind: Any) -> bool:
    """Return whether a column holds floats of fewer than 64 bits: as a longer one, 0.1 reads 0.10000000149011612."""
    return getattr(kind, "dtype", None) in ("float32", "float16")


def _unreadable(where: str, error: Exception) -> StudyError:
    """Return the error for a data set that `datasets` could not read."""
    from datasets.exceptions import DatasetsError

    told = " ".join(str(error).split())[:_TOLD]
    if isinstance(error, RuntimeError) and not isinstance(error, DatasetsError):  # what it says of a script
        remedy = (
            f"if it is a script, read the hub's own export of it by `revision: {EXPORT}`, or give a `path` of "
            "local rows"
        )
    elif isinstance(error, TypeError):
        remedy = "a column may change its type; give local rows by `source: jsonl`"
    else:
        remedy = "correct `path`, `name` and `split`, or give local rows by `source: jsonl`"
    return StudyError(f"{where}: cannot be read: {type(error).__name__}: {told}; {remedy}")
