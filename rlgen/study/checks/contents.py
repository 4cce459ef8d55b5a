"""What lies in the files that a study names: the first rows of data, and the weights of models. Little is read."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlgen.data.prompts import PromptError, fields_of
from rlgen.study.checks.finding import Finding
from rlgen.study.checks.ground import models_of
from rlgen.study.sections import (
    BenchmarkTask,
    ExistingArm,
    HubProblems,
    HubText,
    JsonlProblems,
    JsonlTask,
    JsonlText,
    MiniatureProblems,
)
from rlgen.study.study import Study

_ROWS = 20
"""Rows of a file that are looked at."""
_BYTES = 1 << 20
"""Bytes of a file that are read for them."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")


@dataclass(frozen=True)
class Wanted:
    """A file of rows, and the fields that they must have, each with the key of the setting that names it."""

    key: str
    path: Path
    fields: list[tuple[str, str]]
    every: bool = True
    """Whether every row must have them; otherwise one of the first rows must."""
    rows: int | None = None
    """How many rows are read, if that is known."""


def check_contents(study: Study) -> Iterator[Finding]:
    """Yield what is wrong with the beginning of the files that the study names."""
    for wanted in wanted_rows(study):
        yield from _check_rows(wanted)
    yield from _check_models(study)


def wanted_rows(study: Study) -> list[Wanted]:
    """Return the files of rows on this machine, with the fields that are read of them."""
    found = []
    for i, source in enumerate(study.problems.sources):
        key = f"problems.sources[{i}]"
        if isinstance(source, MiniatureProblems):
            continue
        names = {"problem": source.problem, "answer": source.answer, "solution": source.solution}
        names |= {"level": source.level if source.levels else None}
        fields = [(f"{key}.{name}", field) for name, field in names.items() if field]
        found += _of_source(key, source, fields)
    for i, text in enumerate(study.corpus.sources):
        if isinstance(text, (JsonlText, HubText)):
            key = f"corpus.sources[{i}]"
            found += _of_source(key, text, [(f"{key}.field", text.field)])
    for group, tasks in study.tasks:
        for i, task in enumerate(tasks):
            key = f"tasks.{group}[{i}]"
            if isinstance(task, JsonlTask):
                fields = [(f"{key}.prompt", field) for field in _fields(task.prompt)]
                named = ("choices", "answer") if task.format == "multiple_choice" else ("answer",)
                fields += [(f"{key}.path", field) for field in named]
                found.append(Wanted(f"{key}.path", task.path, fields, rows=task.items))
            elif isinstance(task, BenchmarkTask) and task.path is not None:
                found.append(Wanted(f"{key}.path", task.path, [(f"{key}.path", "answer")], rows=task.items))
    return found


def _of_source(
    key: str, source: JsonlProblems | JsonlText | HubProblems | HubText, fields: list[tuple[str, str]]
) -> list[Wanted]:
    """Return a source's file; of a folder of data files, its first JSONL file."""
    if isinstance(source, (JsonlProblems, JsonlText)):
        return [Wanted(f"{key}.path", source.path, fields)]
    files = sorted(Path(source.path).glob("**/*.jsonl"))[:1] if source.local else []
    return [Wanted(f"{key}.path", file, fields, every=False) for file in files]


def _fields(template: str) -> list[str]:
    try:
        return fields_of(template)
    except PromptError:  # told by another check
        return []


def _check_rows(wanted: Wanted) -> Iterator[Finding]:
    """Yield what is wrong with the first rows of a file."""
    try:
        rows = first_rows(wanted.path, min(wanted.rows or _ROWS, _ROWS))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "give a JSONL file in UTF-8: one JSON object a line"
        yield Finding(wanted.key, f"{wanted.path}: {reason}", remedy)
        return
    for key, field in wanted.fields:
        lacking = [number for number, row in rows if row.get(field) is None]
        if rows and lacking and (wanted.every or len(lacking) == len(rows)):
            values = next(row for number, row in rows if number == lacking[0])
            yield _lacking(key, field, f"{wanted.path}, line {lacking[0]}", values)


def _lacking(key: str, field: str, where: str, values: dict[str, Any]) -> Finding:
    if field in values:
        return Finding(key, f"field `{field}` is null in {where}", "fill it in, or leave the row out")
    near = difflib.get_close_matches(field, values, n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    fields = ", ".join(sorted(values)[:20]) or "no field"
    return Finding(key, f"no field `{field}` in {where}", f"{hint}it has {fields}")


def first_rows(path: Path, most: int = _ROWS) -> list[tuple[int, dict[str, Any]]]:
    """Return the first rows of a JSONL file, each with the number of its line.

    Args:
        path: The file. At most a megabyte of it is read.
        most: How many rows.

    Returns:
        Up to `most` rows; none if the first line is longer than what is read.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is no JSON object in UTF-8, or there is no line at all. The message names the line.
    """
    with path.open("rb") as file:
        beginning = file.read(_BYTES)
    lines = beginning.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if len(beginning) == _BYTES:
        lines = lines[:-1]  # cut off
    elif not beginning.strip():
        raise ValueError("is empty")
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and len(rows) < most:
            rows.append((number, _object(number, line)))
    return rows


def _object(number: int, line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"line {number}: byte {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: not JSON: {error.msg} (character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError(f"line {number}: is nested too deeply") from None
    except ValueError:  # Python's limit of digits
        raise ValueError(f"line {number}: holds a number with too many digits") from None
    if not isinstance(values, dict):
        raise ValueError(f"line {number}: is not a JSON object")
    return values


def _check_models(study: Study) -> Iterator[Finding]:
    """Yield folders of models that cannot be loaded."""
    pickled = {"base.path": getattr(study.base, "allow_pickle", False)}
    pickled |= {"teacher.path": study.teacher.allow_pickle} if study.teacher else {}
    pickled |= {f"arms[{i}]": arm.allow_pickle for i, arm in enumerate(study.arms) if isinstance(arm, ExistingArm)}
    for key, text in models_of(study):
        folder = Path(text)
        if (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
            allowed = next(value for start, value in pickled.items() if key.startswith(start))
            yield from _check_weights(key, folder, pickle=allowed)


def _check_weights(key: str, folder: Path, *, pickle: bool) -> Iterator[Finding]:
    """Yield what is missing of a model's weights."""
    names = os.listdir(folder)  # noqa: PTH208  # names alone
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    if not weights:
        yield Finding(key, f"no weights in {folder}", "copy model.safetensors, or its shards, beside config.json")
    elif not pickle and not any(name.endswith(".safetensors") for name in weights):
        problem = f"{folder} holds no safetensors, only {_listed(weights)}"
        yield Finding(key, problem, "save the weights as safetensors, or set allow_pickle: true if you trust them")
    for name in names:
        if name.endswith(".safetensors.index.json"):
            yield from _check_index(key, folder / name, set(names))
    for name in weights:
        if not (folder / name).is_file():
            yield Finding(key, f"{folder / name} is no file", "fetch the model again")
        elif (folder / name).stat().st_size == 0:
            yield Finding(key, f"{folder / name} is empty", "fetch the model again")


def _check_index(key: str, index: Path, names: set[str]) -> Iterator[Finding]:
    """Yield shards of a model that its index names and that are not there."""
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        yield Finding(key, f"{index}: is no index of weights", "fetch the model again")
        return
    missing = sorted(str(shard) for shard in shards - names)
    if missing:
        yield Finding(key, f"{index.parent} lacks {_listed(missing)}, which its index names", "fetch the model again")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
