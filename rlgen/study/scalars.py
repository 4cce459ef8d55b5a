"""A YAML scalar's value, if it is what it looks like.

YAML 1.1 reads `1:30` as 90, `010` as 8 and `2024-01-01` as a date. None of them is what a study means.
"""

from __future__ import annotations

import re
from typing import Any

from yaml import SafeLoader
from yaml.nodes import ScalarNode

_PREFIX = "tag:yaml.org,2002:"
_KINDS = ("str", "int", "float", "bool", "null")
_MOST_DIGITS = 40
_LOADER: Any = SafeLoader("")
_QUOTE = "put it in quotes if it is text"


class Odd(ValueError):
    """A scalar that YAML reads otherwise than it looks, or that is no plain value."""

    def __init__(self, problem: str, remedy: str) -> None:
        """Keep what is wrong and what to do."""
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


def scalar(text: str, tag: str | None, bare: bool) -> Any:
    """Return the value of a scalar.

    Args:
        text: The scalar as it is written, without its quotes.
        tag: The tag that stands before it, if any.
        bare: Whether it is written without quotes.

    Returns:
        Text, a number, a boolean or None.

    Raises:
        Odd: It is a date, an octal or sexagesimal number, too large a number, or has a tag that a study cannot have.
    """
    kind = _kind(text, tag, bare)
    if kind == "str":
        return text
    if kind == "timestamp":
        raise Odd(f"`{text}` is read as a date", "put it in quotes")
    if kind in ("int", "float"):
        _check_number(text, kind)
    node = ScalarNode(_PREFIX + kind, text)
    try:
        return getattr(_LOADER, f"construct_yaml_{kind}")(node)
    except (ValueError, LookupError, OverflowError):
        raise Odd(f"`{text[:40]}` is no value of the type `{kind}`", _QUOTE) from None


def shown_tag(tag: str) -> str:
    """Return a tag as it is usually written, such as `!!set`."""
    return tag.replace(_PREFIX, "!!")[:60]


def _kind(text: str, tag: str | None, bare: bool) -> str:
    """Return the type of a scalar: its name in YAML, `str` for what is text in a study."""
    if tag in (None, "!"):
        found = _LOADER.resolve(ScalarNode, text, (bare and tag is None, not bare)).removeprefix(_PREFIX)
        return "str" if found in ("value", "merge") else found
    kind = str(tag).removeprefix(_PREFIX)
    if kind not in _KINDS:
        raise Odd(f"has the tag `{shown_tag(str(tag))}`", "remove the tag; a study holds plain values only")
    return kind


def _check_number(text: str, kind: str) -> None:
    if ":" in text:
        raise Odd(f"`{text}` is read as a number to the base 60", _QUOTE + ", or write the number itself")
    if kind == "int" and re.fullmatch(r"[-+]?0[0-7_]+", text):
        raise Odd(f"`{text}` is read as an octal number", "leave out the leading zero, or " + _QUOTE)
    if len(text) > _MOST_DIGITS:
        raise Odd(f"a number of {len(text)} digits", "no setting takes so large or so exact a number")
