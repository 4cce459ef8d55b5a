"""Local JSONL files: one JSON object a line, with errors that name the file, the line and the field."""

from __future__ import annotations

import gzip
import json
import os
import stat
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from rlgen.data.rows import Row
from rlgen.data.values import BadJson, parse_json
from rlgen.errors import StudyError
from rlgen.stage import atomic_path

__all__ = ["Row", "check_file", "is_list", "read_list", "read_rows", "readable_text", "unique_names", "write_rows"]

LONGEST = 1 << 26
"""Bytes of the longest line that is read: a longer one means that the file is not one object a line."""
_BINARY = {
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"PAR1": "a Parquet file; give its folder by `source: hub`, or write it as JSONL",
    b"ARROW1": "an Arrow file; give its folder by `source: hub`, or write it as JSONL",
    b"\xff\xfe\x00\x00": "in UTF-32; write it as UTF-8",
    b"\x00\x00\xfe\xff": "in UTF-32; write it as UTF-8",
    b"\xff\xfe": "in UTF-16; write it as UTF-8",
    b"\xfe\xff": "in UTF-16; write it as UTF-8",
}
"""What a file is that begins with these bytes, and what to do with it."""


def check_file(path: Path, key: str | None = None) -> None:
    """Raise StudyError unless a path is a file that can be opened; `key` is where in the study it stands."""
    name = f"{key}: {path}" if key else str(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise StudyError(f"{name}: is a folder; give a JSONL file")
        if not stat.S_ISREG(mode):
            raise StudyError(f"{name}: is not an ordinary file; give a JSONL file")
        os.close(os.open(path, os.O_RDONLY))
    except FileNotFoundError:
        raise StudyError(f"{name}: no such file; correct `path` in the study") from None
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None


def read_rows(path: Path, limit: int | None = None, unpack: bool = False) -> Iterator[Row]:
    """Read a JSONL file row by row.

    Args:
        path: The file, in UTF-8 with or without a byte order mark. Blank lines are left out.
        limit: Rows read, from the first; all if None.
        unpack: Whether the file is compressed by gzip.

    Returns:
        The rows, which know their file and line.

    Raises:
        StudyError: The file cannot be read, or a line is not a JSON object in UTF-8.
    """
    check_file(path)
    return islice(_rows(path, unpack), limit)


def is_list(path: Path, unpack: bool = False) -> bool:
    """Return whether a file begins as a JSON list does; false if it cannot be read."""
    try:
        with _opened(path, unpack) as file:
            return file.read(4096).removeprefix(BOM_UTF8).lstrip().startswith(b"[")
    except (OSError, EOFError, zlib.error):
        return False


def read_list(path: Path, unpack: bool = False) -> Iterator[Row]:
    """Read the rows of a file that is one JSON list of objects, or of texts, which become rows of a field `text`.

    Raises:
        StudyError: The file cannot be read or is something else.
    """
    check_file(path)
    content = b"".join(raw for _, raw in _lines(path, unpack, longest=-1))
    try:
        values = parse_json(_decoded(content, str(path)))
    except BadJson as error:
        raise StudyError(f"{path}: {error}; write a list of objects, or one object a line") from None
    for number, value in enumerate(values, start=1):
        where = f"{path}, entry {number}"
        yield Row(where, number, {"text": value} if isinstance(value, str) else _an_object(value, where))


def readable_text(path: Path, unpack: bool = False) -> Iterator[tuple[int, str]]:
    """Read the lines of a text file in UTF-8 with their numbers and ends. Raises StudyError if it is no such file."""
    check_file(path)
    for number, raw in _lines(path, unpack, LONGEST):
        yield number, _decoded(raw, f"{path}, line {number}")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write a JSONL file whole or not at all; returns the number of lines."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def unique_names(rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Pass rows on while their ids differ.

    Args:
        rows: Pairs of where a row comes from, for messages, and the row with its `id`.

    Returns:
        The rows.

    Raises:
        StudyError: Two rows have the same id; both are named.
    """
    seen: dict[str, str] = {}
    for where, row in rows:
        if row["id"] in seen:
            raise StudyError(
                f"{where}: id `{row['id']}` is there twice; {seen[row['id']]} has it, too; make the ids of problems "
                "and items unique, or leave them out to take the number of the row"
            )
        seen[row["id"]] = where
        yield row


def _rows(path: Path, unpack: bool) -> Iterator[Row]:
    for number, raw in _lines(path, unpack, LONGEST):
        if not raw.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = parse_json(_decoded(raw, where))
        except BadJson as error:
            cut = "" if raw.endswith((b"\n", b"\r")) else "; the last line may be cut off"
            raise StudyError(f"{where}: {error}; write one JSON object a line{cut}") from None
        yield Row(where, number, _an_object(values, where))


def _an_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StudyError(f'{where}: not a JSON object; write one object a line, such as {{"id": 1, ...}}')
    return value


def _lines(path: Path, unpack: bool, longest: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers and ends; a byte order mark is left out."""
    number = 0
    try:
        with _opened(path, unpack) as file:
            while raw := file.readline(longest):
                if number == 0:
                    raw = _begun(raw, path)
                if len(raw) == longest and not raw.endswith(b"\n"):
                    raise StudyError(
                        f"{path}, line {number + 1}: longer than {longest >> 20} MiB; write one JSON object a line"
                    )
                for line in raw.splitlines(keepends=True):
                    number += 1
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None


def _opened(path: Path, unpack: bool) -> IO[bytes]:
    return gzip.open(path, "rb") if unpack else path.open("rb")  # type: ignore[return-value]


def _begun(raw: bytes, path: Path) -> bytes:
    """Return a file's first line without its byte order mark; raise StudyError if the file is no text."""
    for magic, what in _BINARY.items():
        if raw.startswith(magic):
            raise StudyError(f"{path}, line 1: the file is {what}")
    return raw.removeprefix(BOM_UTF8)


def _decoded(raw: bytes, where: str) -> str:
    if b"\0" in raw:
        raise StudyError(f"{where}: has NUL bytes, so the file is not text in UTF-8; write it as UTF-8 (or mend it)")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StudyError(
            f"{where}: not UTF-8 (byte {error.start + 1} is 0x{raw[error.start]:02x}); write the file as UTF-8, "
            "for instance by `iconv -f LATIN1 -t UTF-8`"
        ) from None


def _unreadable(path: object, error: Exception) -> StudyError:
    why = getattr(error, "strerror", None) or error
    return StudyError(f"{path}: cannot be read ({why}); correct the path, or permit reading")
