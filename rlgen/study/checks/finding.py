"""What a check has to say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One wrong setting: its key's path, what is wrong with it, and what to do."""

    key: str
    problem: str
    remedy: str
