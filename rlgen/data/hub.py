"""Data sets of the Hugging Face hub, or of a folder of data files: pinned to a commit, streamed row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from rlgen.data.jsonl import Row
from rlgen.errors import StudyError
from rlgen.stage import Workspace, write_json

EXPORT = "refs/convert/parquet"
"""The revision at which the hub keeps its own export of a data set, as <configuration>/<split>/<number>.parquet."""
_PINS = "pins.json"
"""In the scratch folder: the commits that were pinned when the stage was begun."""


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
    """The rows of a data set's split, in its own order; nothing is kept on disk.

    `files` is the pattern of the split's files where the data set does not say so itself; they stand for the
    configuration `name`. Raises StudyError, with `key` and the data set, if it cannot be read.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    where = f"{key}: {path} ({split})"
    try:
        which = {"name": name} if files is None else {"data_files": {split: files}}
        rows = load_dataset(path, **which, split=split, revision=revision, streaming=True)
        for number, values in enumerate(rows, start=1):
            yield Row(f"{where}, row {number}", number, values)
    except (DatasetsError, OSError, ValueError) as error:
        raise StudyError(f"{where}: cannot be read: {error}") from None
    except RuntimeError as error:  # what `datasets` says of one that is a script
        raise StudyError(
            f"{where}: cannot be read: {error}; if it is a script, read the hub's own export of it by "
            f"`revision: {EXPORT}`, or give a `path` of local rows"
        ) from None
