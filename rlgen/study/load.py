"""Reading a study: YAML in, a checked `Study` or one readable message out."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rlgen.errors import StudyError
from rlgen.study.checks import Finding, check
from rlgen.study.study import Study


def load_study(path: Path, settings: Mapping[str, Any] | None = None) -> Study:
    """Read a study from a YAML file, `settings` in the place of its own.

    Raises StudyError, naming every bad key, if it cannot be run.
    """
    if not path.is_file():
        raise StudyError(f"{path}: no such file; give the study's YAML file with --configfile")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, Mapping):
        raise StudyError(f"{path}: holds {type(raw).__name__}; a study is a mapping of sections")
    return parse_study({**raw, **(settings or {})}, source=str(path))


def parse_study(raw: Mapping[str, Any], source: str = "the study") -> Study:
    """Check settings that are read already, as Snakemake's `config`. Raises StudyError as `load_study`."""
    try:
        study = Study.model_validate(json.loads(json.dumps(raw, default=str)))
    except ValidationError as error:
        raise StudyError(_message(source, [_finding(e) for e in error.errors()])) from None
    findings = check(study)
    if findings:
        raise StudyError(_message(source, findings))
    return study


def _message(source: str, findings: list[Finding]) -> str:
    count = "1 setting is" if len(findings) == 1 else f"{len(findings)} settings are"
    lines = [f"{source}: {count} wrong"]
    lines += [f"  {f.key}: {f.problem}\n    remedy: {f.remedy}" for f in findings]
    return "\n".join(lines)


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
        return Finding(key, "is missing", f"add `{loc[-1]}`; `rlgen config schema` describes it")
    if kind == "union_tag_invalid":
        name = context["discriminator"].strip("'")
        return Finding(f"{key}.{name}", f"given '{context['tag']}'", f"use one of: {context['expected_tags']}")
    if kind == "union_tag_not_found":
        name = context["discriminator"].strip("'")
        return Finding(f"{key}.{name}", "is missing", f"add `{name}`; `rlgen config schema` lists what it may be")
    return Finding(key, f"given {given}", error["msg"].replace("Input should", "it should"))


def _walk(loc: tuple[str | int, ...]) -> tuple[list[str | int], type[BaseModel] | None]:
    """Drop pydantic's union tags from a location, and find the section that holds its last key."""
    model: Any = Study
    holder: type[BaseModel] | None = Study
    path: list[str | int] = []
    for step in loc:
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
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
