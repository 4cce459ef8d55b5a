"""Reading a study: YAML in, a checked `Study` or one readable message out."""

from __future__ import annotations

import copy
import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from rlgen.errors import StudyError
from rlgen.study.checks import Finding, check, check_notes
from rlgen.study.checks.finding import message
from rlgen.study.document import Document, read_document
from rlgen.study.plain import plain
from rlgen.study.study import Study

_YTE = "__use_yte__"
"""The key by which Snakemake takes a file for a template and runs the Python code in it."""


def load_study(path: Path, settings: Mapping[str, Any] | None = None) -> Study:
    """Read a study from a YAML file.

    Args:
        path: The file.
        settings: Settings that are merged into the file's, section by section, as Snakemake merges those of `--config`.

    Returns:
        The study.

    Raises:
        StudyError: The file is no plain YAML, or a setting is wrong. The message names every wrong key.
    """
    found = read_document(path)
    if not settings:
        return parse_study(found.values, source=str(path), lines=found.lines)
    return parse_study(merged(found.values, settings), source=str(path))


def parse_study(raw: Mapping[str, Any], source: str = "the study", lines: Mapping[str, int] | None = None) -> Study:
    """Check settings that have been read already.

    Args:
        raw: The settings.
        source: Where they come from, for messages.
        lines: The line of each key in its file, if it is known.

    Returns:
        The study.

    Raises:
        StudyError: As `load_study`.
    """
    values = plain(raw, source)
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        raise StudyError(message(source, [_finding(e) for e in error.errors(include_url=False)], lines)) from None
    findings = list(_booleans(values, study)) or check(study)
    if findings:
        raise StudyError(message(source, findings, lines))
    return study


def parse_config(config: Mapping[str, Any], documents: Sequence[Document]) -> Study:
    """Check the settings that Snakemake has read.

    Snakemake reads less strictly: of a key that is given twice it keeps the last, and it makes dates and octal numbers.
    So its files are read by `read_document` as well.

    Args:
        config: What Snakemake has read, with the settings of `--config` in it.
        documents: The files that it has read. None if it was given the settings themselves.

    Returns:
        The study.

    Raises:
        StudyError: As `load_study`.
    """
    for document in documents:
        if _YTE in document.values:
            finding = Finding(_YTE, "Snakemake would run the file as a template", "remove it; write plain YAML")
            raise StudyError(message(str(document.path), [finding], document.lines))
    source = ", ".join(str(document.path) for document in documents) or "configuration"
    same = len(documents) == 1 and documents[0].values == config
    return parse_study(config, source, documents[0].lines if same else None)


def notes_on(study: Study) -> list[str]:
    """Return a line about each setting that is allowed and weak."""
    return [f"{note.key}: {note.problem}; {note.remedy}" for note in check_notes(study)]


def merged(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings into others, section by section, as Snakemake does with `--config`.

    Args:
        values: The settings of a file.
        settings: Those that take their place. A mapping is merged into the mapping of that key; anything else
            takes its place.

    Returns:
        New settings; neither argument is changed.
    """
    found: dict[str, Any] = dict(copy.deepcopy(values))
    for key, value in settings.items():
        if isinstance(value, Mapping):
            own = found.get(key, {})
            if isinstance(own, Mapping) or value:  # Snakemake lets an empty mapping change nothing
                found[key] = merged(own if isinstance(own, Mapping) else {}, value)
        else:
            found[key] = value
    return found


def _booleans(raw: Any, parsed: Any, loc: tuple[str | int, ...] = ()) -> Iterator[Finding]:
    """Yield the places where `true` or `false` has been taken for a number."""
    if isinstance(raw, bool) and not isinstance(parsed, bool):
        remedy = "write a number; true and false do not fit here"
        yield Finding(_key(list(loc)), f"given {str(raw).lower()}", remedy)
    elif isinstance(raw, dict):
        for key, value in raw.items():
            own = parsed.get(key) if isinstance(parsed, dict) else getattr(parsed, key, value)
            yield from _booleans(value, own, (*loc, key))
    elif isinstance(raw, list) and isinstance(parsed, (list, tuple)):
        for index, (value, own) in enumerate(zip(raw, parsed, strict=False)):
            yield from _booleans(value, own, (*loc, index))


def _finding(error: Any) -> Finding:
    loc, model = _walk(error["loc"])
    key, given = _key(loc), _shown(error["input"])
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = sorted(model.model_fields) if model else []
        near = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        return Finding(key, "unknown key", f"{hint}remove it, or use one of: {', '.join(allowed)}")
    if kind == "missing":
        return Finding(key, "is missing", f"add `{loc[-1]}`; `rlgen config explain {key}` describes it")
    if kind == "union_tag_invalid":
        name = context["discriminator"].strip("'")
        return Finding(f"{key}.{name}", f"given '{context['tag']}'", f"use one of: {context['expected_tags']}")
    if kind == "union_tag_not_found":
        name = context["discriminator"].strip("'")
        return Finding(
            f"{key}.{name}", "is missing", f"add `{name}`; `rlgen config explain {key}.{name}` lists what it may be"
        )
    remedy = error["msg"].replace("Input should", "it should").replace("String should", "it should")
    return Finding(key, f"given {given}", remedy + _hint(kind, error["input"]))


def _hint(kind: str, value: Any) -> str:
    """Return what else a remedy should say about a value of the wrong type."""
    if kind in ("string_type", "path_type") and isinstance(value, (int, float)):
        return "; put it in quotes if it is text"
    if kind.startswith(("int_", "float_")) and isinstance(value, str):
        if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d{1,3}", value.strip()):
            return f"; YAML reads `{value}` as text: write {float(value):.15g}"
        if re.fullmatch(r"[-+]?\d{1,3}([,' ]\d{3})+(\.\d+)?", value.strip()):
            return f"; write {re.sub('[^-0-9.]', '', value)}"
    return ""


def _walk(loc: tuple[str | int, ...]) -> tuple[list[str | int], type[BaseModel] | None]:
    """Drop pydantic's union tags from a location, and find the section that holds its last key."""
    model: Any = Study
    holder: type[BaseModel] | None = Study
    path: list[str | int] = []
    for step in loc:
        if step == "[key]":  # the name before it is what is wrong
            continue
        if isinstance(model, list):  # candidates of a discriminated union: the step is the tag
            model = next(m for m in model if step in get_args(m.model_fields[_tag(m)].annotation))
            holder = model
            continue
        path.append(step)
        if isinstance(model, type) and issubclass(model, BaseModel):
            holder = model
            field = model.model_fields.get(str(step))
            model = _inner(field.annotation) if field else None
        elif isinstance(model, tuple):  # a container: the step is an index or a name
            model = model[0]
    return path, holder


def _tag(model: type[BaseModel]) -> str:
    return "method" if "method" in model.model_fields else "source"


def _inner(annotation: Any) -> Any:
    """What a location's next step goes into: a section, a list of sections (union), or a tuple (container)."""
    args = [a for a in get_args(annotation) if a is not type(None)]
    origin = getattr(annotation, "__origin__", None)
    if hasattr(annotation, "__metadata__"):
        return _inner(origin)
    if origin in (list, dict):
        return (_inner(args[-1]),)
    if isinstance(annotation, types.UnionType):
        return _inner(args[0]) if len(args) == 1 else args
    return annotation


def _key(loc: list[str | int]) -> str:
    parts = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc]
    return "".join(parts).lstrip(".") or "(top level)"


def _shown(value: Any) -> str:
    """Return a value as a message shows it, not longer than 60 characters."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    text = repr(value[:60] if isinstance(value, (str, list)) else value)
    return text if len(text) <= 60 else text[:57] + "..."
