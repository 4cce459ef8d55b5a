"""A key of the study in plain text: its type, its default and what it means, from the JSON schema."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

from rlgen.errors import StudyError
from rlgen.study.stages import schema

_WIDTH = 100


def explain(key: str = "") -> list[str]:
    """Describe a key of the study.

    Args:
        key: Its path, such as `arms.lr` or `arms[0].lr`; names in lists and mappings may be left out. Empty for the
            whole study.

    Returns:
        Lines of text: the key with its type, default and meaning, and the keys in it, in every form that it can have.

    Raises:
        StudyError: There is no such key.
    """
    whole = _schema()
    found: list[tuple[str, dict[str, Any]]] = [("", whole)]
    path = ""
    for step in re.sub(r"\[\w*\]", "", key).split(".") if key else []:
        inner = [(name, own) for _, one in found for name, own in _keys(one, whole)]
        chosen = [(name, own) for name, own in inner if name == step]
        if not chosen and any(_entries(form) for _, one in found for form in _forms(one, whole)):
            continue  # a name of the user's, as of a crosscoder
        if not chosen:
            names = sorted({name for name, _ in inner})
            near = difflib.get_close_matches(step, names, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise StudyError(f"{key}: no key `{step}`; {hint}use one of: {', '.join(names) or 'none'}")
        found, path = chosen, f"{path}.{step}" if path else step
    lines: list[str] = []
    for _, own in found:
        told = list(_told(path, own, whole))
        lines += [] if lines[-len(told) :] == told else told
    return lines


@cache
def _schema() -> dict[str, Any]:
    return schema()


def _told(path: str, own: dict[str, Any], whole: dict[str, Any]) -> Iterator[str]:
    if path:
        yield _headline(path, own, whole)
        yield from _wrapped(own.get("description", ""), "  ")
    for form in _forms(own, whole):
        if keys := list(form.get("properties", {}).items()):
            kind = next((one["const"] for _, one in keys if "const" in one), None)
            yield f"{path or 'study'}{f' ({kind})' if kind else ''} has these keys:"
            for name, one in keys:
                yield "  " + _headline(name, one, whole)
                yield from _wrapped(one.get("description", ""), "    ")


def _headline(name: str, own: dict[str, Any], whole: dict[str, Any]) -> str:
    default = f", default {own['default']!r}" if "default" in own and not isinstance(own["default"], dict) else ""
    return f"{name}: {_type(own, whole)}{default}"


def _type(own: dict[str, Any], whole: dict[str, Any]) -> str:
    """Return a type in words."""
    if "$ref" in own:
        return "section" if "properties" in _resolved(own, whole) else _type(_resolved(own, whole), whole)
    if "const" in own:
        return f"`{own['const']}`"
    if "enum" in own:
        return " or ".join(f"`{value}`" for value in own["enum"])
    if several := own.get("anyOf") or own.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(one, whole) for one in several))
    if own.get("type") == "array":
        return f"list of {_type(own['items'], whole)}" if "items" in own else "list"
    if own.get("type") == "object":
        inner = _entries(own)
        return f"mapping of names to {_type(inner[0], whole)}" if inner else "mapping"
    limits = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    told = [f"{word} {own[limit]:,g}" for limit, word in limits.items() if limit in own]
    plain = {"null": "null", "string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
    return ", ".join([plain.get(own.get("type", ""), "value"), *told])


def _keys(own: dict[str, Any], whole: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for form in _forms(own, whole):
        yield from form.get("properties", {}).items()


def _forms(own: dict[str, Any], whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every section that a key can hold: itself, an entry of its list or mapping, or one of several kinds."""
    own = _resolved(own, whole)
    yield own
    inner = [*own.get("anyOf", []), *own.get("oneOf", []), own.get("items"), *_entries(own)]
    for one in inner:
        if isinstance(one, dict):
            yield from _forms(one, whole)


def _entries(own: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a mapping holds whose keys are the user's names."""
    found = [*own.get("patternProperties", {}).values(), own.get("additionalProperties")]
    return [one for one in found if isinstance(one, dict)]


def _resolved(own: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    return whole["$defs"][own["$ref"].rpartition("/")[2]] if "$ref" in own else own


def _wrapped(text: str, indent: str) -> list[str]:
    joined = " ".join(text.split())
    return textwrap.wrap(joined, _WIDTH, initial_indent=indent, subsequent_indent=indent) if joined else []
