"""What a job's log says at its end."""

from __future__ import annotations

import os
from pathlib import Path

from rlgen.masking import masked

_END = 16384
"""Bytes of a log that are looked at."""
_LINES = 3
"""Last lines that are shown, without secrets."""


def last_error(log: Path, after: float | None) -> tuple[str, ...]:
    """The last lines of a log that ends in an error; nothing if it does not, or is older than `after` (seconds).

    A job that was killed says nothing, and so is not among those that failed.
    """
    try:
        with log.open("rb") as handle:
            if after is not None and os.fstat(handle.fileno()).st_mtime < after:
                return ()
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - _END))
            lines = handle.read().decode(errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    told = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if told:
        return tuple(masked(line) for line in lines[told[-1] :][:_LINES])
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        return tuple(masked(line) for line in [line for line in lines if line.strip()][-_LINES:])
    return ()
