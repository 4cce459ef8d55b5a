"""Settings that somebody else has read, as plain values that a study can hold."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from rlgen.errors import StudyError
from rlgen.study.checks.finding import Finding, message
from rlgen.study.document import DEEPEST, MOST_VALUES

LONGEST_TEXT = 100_000
"""Characters of a setting."""
_LARGEST = 2**63


def plain(raw: Mapping[Any, Any], source: str) -> dict[str, Any]:
    """Copy settings, with only dicts, lists, text, numbers, booleans and None in them.

    Args:
        raw: A mapping of settings. Tuples become lists, and paths become text.
        source: What the settings come from, for messages.

    Returns:
        The copy.

    Raises:
        StudyError: A key is not text, a value has another type, or there are too many values or levels.
    """
    copier = _Copier()
    found = copier.copy(raw, "")
    if copier.findings:
        raise StudyError(message(source, copier.findings))
    return dict(found)


def _odd(value: Any) -> tuple[str, str] | None:
    """Return what is wrong with a text or number whatever it is for, and the remedy."""
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a number that does not fit into 64 bits", "write a smaller number"
    if not isinstance(value, str) or (value.isascii() and value.isprintable() and len(value) <= LONGEST_TEXT):
        return None
    if len(value) > LONGEST_TEXT:
        return f"a text of {len(value):,} characters", f"write at most {LONGEST_TEXT:,}"
    character = next((c for c in value if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r"), None)
    if character is None:
        return None
    kind = "half of a surrogate pair" if unicodedata.category(character) == "Cs" else "a control character"
    return f"has U+{ord(character):04X} in it, {kind}", "remove that character"


class _Copier:
    """Copies a tree of values and notes what is wrong with it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._count = 0

    def copy(self, value: Any, place: str, level: int = 0) -> Any:
        self._count += 1
        if self._count > MOST_VALUES or level > DEEPEST:
            self._full(place)
            return None
        if isinstance(value, Mapping):
            return {str(key): self.copy(one, self._key(place, key), level + 1) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.copy(one, f"{place}[{index}]", level + 1) for index, one in enumerate(value)]
        if isinstance(value, PurePath):
            return str(value)
        if odd := _odd(value):
            self.findings.append(Finding(place, *odd))
            return None
        if value is not None and not isinstance(value, (str, int, float, bool)):
            kind = type(value).__name__
            self.findings.append(Finding(place, f"a value of type {kind}", "use text, a number, true, false or null"))
        return value

    def _key(self, place: str, key: Any) -> str:
        if not isinstance(key, str):
            told = f"the key {str(key)[:60]} is of type {type(key).__name__}, not text"
            self.findings.append(Finding(place or "(top level)", told, "put the key in quotes"))
        elif odd := _odd(key):
            self.findings.append(Finding(place or "(top level)", f"a key {odd[0]}", odd[1]))
        return f"{place}.{key}" if place else str(key)

    def _full(self, place: str) -> None:
        if not any(found.remedy.startswith("a study has") for found in self.findings):
            problem = f"more than {DEEPEST} levels of nesting, or more than {MOST_VALUES:,} values"
            self.findings.append(Finding(place[:60], problem, "a study has about six levels and some hundred values"))
