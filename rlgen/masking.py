"""Secrets of the environment do not get into logs."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from types import TracebackType

_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
"""How the name of a variable ends that holds one."""
_SHORTEST = 8
"""Characters; anything shorter may be a word."""


def masked(text: str) -> str:
    """The text with the environment's secrets replaced by the names of their variables."""
    secrets = ((value, name) for name, value in os.environ.items() if name.upper().endswith(_SECRET))
    for value, name in sorted(secrets, key=lambda secret: -len(secret[0])):
        if len(value) >= _SHORTEST:
            text = text.replace(value, f"<{name}>")
    return text


class Masking(logging.Formatter):
    """Formats a log line, with its traceback if it has one, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return masked(super().format(record))


def crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, without secrets: for `sys.excepthook`."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))
