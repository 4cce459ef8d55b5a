"""Local JSONL files: one JSON object a line, with errors that name the file, the line and the field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rlgen.errors import StudyError
from rlgen.stage import atomic_path


class Row:
    """One line of a JSONL file, or one row of a data set."""

    def __init__(self, where: str, number: int, values: dict[str, Any]) -> None:
        self.values = values
        """The object."""
        self.where = where
        """File and line, for messages."""
        self.number = number
        """The line's number; the first is 1."""

    def get(self, field: str) -> Any:
        """A field's value. Raises StudyError if there is none or it is null."""
        value = self.values.get(field)
        if value is None:
            raise StudyError(f"{self.where}: no field `{field}`; it has {', '.join(sorted(self.values))}")
        return value

    def text(self, field: str) -> str:
        """A field's value as text, empty text refused."""
        value = str(self.get(field))
        if not value.strip():
            raise StudyError(f"{self.where}: field `{field}` is empty")
        return value

    def fill(self, template: str) -> str:
        """A format string filled with the row's fields. Raises StudyError if it names a field that is missing."""
        try:
            return template.format(**self.values)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, KeyError):
                self.get(str(error.args[0]))
            raise StudyError(f"prompt: {template!r} is not a format string over named fields: {error}") from None

    def with_values(self, values: dict[str, Any]) -> Row:
        """Other values in the same place."""
        return Row(self.where, self.number, values)

    def name(self) -> str:
        """The row's id: its field `id`, or else its number."""
        return str(self.values.get("id", self.number))


def read_rows(path: Path, limit: int | None = None) -> Iterator[Row]:
    """The first `limit` lines of a file, blank lines left out. Raises StudyError if the file or a line is bad."""
    if not path.is_file():
        raise StudyError(f"{path}: no such file; correct `path` in the study")
    return islice(_parse(path), limit)


def _parse(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise StudyError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(values, dict):
                raise StudyError(f"{path}, line {number}: not a JSON object")
            yield Row(f"{path}, line {number}", number, values)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write a JSONL file whole or not at all; returns the number of lines."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def unique_names(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows again; raises StudyError where an id comes twice."""
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise StudyError(f"id `{row['id']}` is there twice; ids of problems and items must be unique")
        seen.add(row["id"])
        yield row
