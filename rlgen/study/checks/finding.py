"""Findings of a check, and their text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MOST = 20
"""Findings that one message lists."""


@dataclass(frozen=True)
class Finding:
    """One wrong setting: its key's path, what is wrong with it, and what to do."""

    key: str
    problem: str
    remedy: str


def message(source: str, findings: Sequence[Finding], lines: Mapping[str, int] | None = None) -> str:
    """Return one readable message about all findings.

    Args:
        source: The study's file, or what else the settings come from.
        findings: What is wrong.
        lines: The line of each key in the file, if it is known.

    Returns:
        A headline and two lines for each finding.
    """
    count = "1 setting is" if len(findings) == 1 else f"{len(findings)} settings are"
    told = [f"{source}: {count} wrong"]
    for found in findings[:_MOST]:
        line = _line(found.key, lines or {})
        place = f" (line {line})" if line else ""
        told.append(f"  {printable(found.key)}: {printable(found.problem)}{place}\n    remedy: {found.remedy}")
    if len(findings) > _MOST:
        told.append(f"  and {len(findings) - _MOST} more")
    return "\n".join(told)


def printable(text: str) -> str:
    """Return the text with escapes for characters that a terminal cannot or should not show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _line(key: str, lines: Mapping[str, int]) -> int | None:
    """Return the line of the key, or of the section around it."""
    while key not in lines:
        shorter = re.sub(r"(\.[^.\[]*|\[\d+\])$", "", key)
        if shorter == key:
            return None
        key = shorter
    return lines[key]
