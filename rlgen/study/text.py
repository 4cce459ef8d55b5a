"""The text of a study's file, if it is a small file of UTF-8."""

from __future__ import annotations

import stat
from pathlib import Path

import yaml

from rlgen.errors import StudyError
from rlgen.study.checks.finding import printable

MOST_BYTES = 1_000_000
"""Size of the largest file that is read."""
_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes of files that are not UTF-8 text."""


def read_text(path: Path) -> str:
    """Return a file's text. Raises StudyError if it is not a small file of UTF-8 text."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
            raise StudyError(f"{path}: is {kind}; give the study's YAML file with --configfile")
        if found.st_size > MOST_BYTES:
            raise StudyError(f"{path}: has {found.st_size:,} bytes; a study is a YAML file of at most {MOST_BYTES:,}")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file; give the study's YAML file with --configfile") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StudyError(f"{printable(str(path))}: cannot be read ({reason}); give the study's YAML file") from None
    for mark, kind in _MARKS.items():
        if raw.startswith(mark):
            remedy = "save it as UTF-8" if kind.startswith("UTF") else "unpack it"
            raise StudyError(f"{path}: is {kind}; {remedy}, as a study is a YAML file in UTF-8")
    if b"\0" in raw:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        kind = "looks like UTF-16" if raw.count(b"\0") > len(raw) // 4 else "is no text"
        raise StudyError(f"{path}: {kind}: there is a zero byte in line {line}; save it as a YAML file in UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        problem = f"is not UTF-8: byte 0x{raw[error.start]:02x} in line {line}"
        raise StudyError(f"{path}: {problem}; save it as UTF-8 (is it Latin-1?)") from None
    if odd := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text[: odd.start()].count("\n") + 1
        raise StudyError(f"{path}: line {line}: the character {odd.group()!r} is not allowed in YAML; remove it")
    return text
