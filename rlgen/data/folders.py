"""Rows of a folder of JSON, CSV or TSV files, as they were written.

The library `datasets` guesses the type of a column from its first rows: it turns texts into dates, large integers into
floats and the text `NA` into null. Golds must not change, so such files are read here. The library still says which
files belong to a split.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlgen.data.jsonl import is_list, read_list, read_rows, readable_text
from rlgen.data.rows import Row
from rlgen.errors import StudyError

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_JSON, _TABLES = (".json", ".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
_FIRST = 1000
"""Rows that are looked at for the names of the columns."""


def split_files(builder: DatasetBuilder, split: str) -> list[Path] | None:
    """Return the files of a split that are read here.

    Args:
        builder: What `datasets` would read the folder with.
        split: The split's name.

    Returns:
        The files in their order; None if they are of another kind, or the folder's card asks for special reading.

    Raises:
        ValueError: The folder has no such split.
    """
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in ("json", "csv") or not builder.config.data_files:
        return None
    of_split = {str(name): files for name, files in builder.config.data_files.items()}
    if split not in of_split:
        raise ValueError(f"no split `{split}`; it has {', '.join(of_split)}")
    found = [Path(str(file)) for file in of_split[split]]
    suffixes = _JSON if kind == "json" else tuple(_TABLES)
    plain = all(_suffix(file) in suffixes and file.is_file() for file in found)
    return found if plain and _ordinary(builder.config) else None


def rows_of(files: list[Path]) -> Iterator[Row]:
    """Read the rows of files, one file after the other.

    A column that some of the first rows have is null in a row without it, as `datasets` has it.

    Raises:
        StudyError: A file or a row cannot be read; file and line are named.
    """
    rows = (row for file in files for row in _rows(file))
    first = list(islice(rows, _FIRST))
    columns = dict.fromkeys(name for row in first for name in row.values)
    while first:
        for row in first:
            yield row.with_values({**columns, **row.values})
        first = list(islice(rows, _FIRST))


def _rows(file: Path) -> Iterator[Row]:
    suffix, packed = _suffix(file), file.suffix == ".gz"
    if suffix in _TABLES:
        return _table(file, packed, _TABLES[suffix])
    return read_list(file, packed) if is_list(file, packed) else read_rows(file, unpack=packed)


def _table(file: Path, packed: bool, separator: str) -> Iterator[Row]:
    """Yield the rows of a table whose first line names the columns; all values are texts."""
    csv.field_size_limit(sys.maxsize)  # the default refuses a text of more than 131,072 characters
    table = csv.reader((line for _, line in readable_text(file, packed)), delimiter=separator, strict=True)
    columns: list[str] | None = None
    number = 0
    try:
        for cells in table:
            where = f"{file}, line {table.line_num}"
            if not cells:
                continue
            if columns is None:
                columns = cells
                if len(set(columns)) < len(columns):
                    raise StudyError(f"{where}: a column is named twice; give each column a name of its own")
                continue
            if len(cells) != len(columns):
                raise StudyError(
                    f"{where}: {len(cells)} cells for {len(columns)} columns; put cells with a separator in quotes"
                )
            number += 1
            yield Row(where, number, dict(zip(columns, cells, strict=True)))
    except csv.Error as error:
        raise StudyError(f"{file}, line {table.line_num}: not a table ({error}); mend the quotes") from None


def _suffix(file: Path) -> str:
    return (file.with_suffix("") if file.suffix == ".gz" else file).suffix.lower()


def _ordinary(config: Any) -> bool:
    """Return whether a folder's card leaves the reading of its files to the defaults."""
    default = type(config)()
    named = {"name", "version", "data_dir", "data_files", "description", "sep", "delimiter", "features"}
    fields = [field.name for field in dataclasses.fields(config) if field.name not in named]
    return all(getattr(config, name) == getattr(default, name) for name in fields) and (
        getattr(config, "sep", ",") in _TABLES.values()
    )
