"""What the other checks take for granted: names that differ, a bounded number of fits, and paths that can be looked at.

If something is wrong here, the other checks are not run.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from rlgen.study.checks.finding import Finding
from rlgen.study.sections import (
    BenchmarkTask,
    ExistingArm,
    ExistingBase,
    HubProblems,
    HubText,
    JsonlProblems,
    JsonlTask,
    JsonlText,
)
from rlgen.study.study import BASE, TEACHER, Study

MOST_FITS = 10_000
"""Fits of one crosscoder's entry: each is a job."""
MOST_CONFIG = 10_000_000
"""Bytes of a model's config.json."""
LONGEST_FILE = 230
"""Characters of a fit's name: a file system takes 255, and a stage appends to it while it works."""
LONGEST_ROOT = 3000
"""Characters of the folder of results: Linux takes paths of 4,096."""


def check_ground(study: Study) -> Iterator[Finding]:
    """Yield what keeps the other checks from being run."""
    yield from _alike(study)
    yield from _fits(study)
    yield from _results(study)
    for key, path in local_paths(study):
        yield from _reachable(key, path)
    for key, text in models_of(study):
        yield from _config(key, Path(text))


def models_of(study: Study) -> list[tuple[str, str]]:
    """Return key and path of every model that exists already: folders, or ids on the hub."""
    models = [("base.path", study.base.path)] if isinstance(study.base, ExistingBase) else []
    for i, arm in enumerate(study.arms):
        if isinstance(arm, ExistingArm):
            models.append((f"arms[{i}].path", arm.path))
            models += [(f"arms[{i}].checkpoints[{j}]", path) for j, path in enumerate(arm.checkpoints)]
    return models + ([("teacher.path", study.teacher.path)] if study.teacher else [])


def local_paths(study: Study) -> list[tuple[str, Path]]:
    """Return key and path of every file and folder that the study may read. An id on the hub is listed, too."""
    paths = [(key, Path(text)) for key, text in models_of(study)]
    for group, tasks in study.tasks:
        from_files = ((i, t.path) for i, t in enumerate(tasks) if isinstance(t, (JsonlTask, BenchmarkTask)))
        paths += [(f"tasks.{group}[{i}].path", path) for i, path in from_files if path]
    texts = ((i, s) for i, s in enumerate(study.corpus.sources) if isinstance(s, (JsonlText, HubText)))
    paths += [(f"corpus.sources[{i}].path", Path(source.path)) for i, source in texts]
    rows = ((i, s) for i, s in enumerate(study.problems.sources) if isinstance(s, (JsonlProblems, HubProblems)))
    return paths + [(f"problems.sources[{i}].path", Path(source.path)) for i, source in rows]


def _alike(study: Study) -> Iterator[Finding]:
    """Yield names that are one name on a file system that ignores case, such as that of macOS."""
    kinds = {
        "arms": [BASE, *([TEACHER] if study.teacher else []), *study.arm_names],
        "tasks": study.task_names,
        "crosscoders": list(study.crosscoders),
    }
    for key, names in kinds.items():
        seen: dict[str, str] = {}
        for name in names:
            first = seen.setdefault(name.casefold(), name)
            if first != name:
                problem = f"`{first}` and `{name}` are one name where a file system ignores case"
                yield Finding(key, problem, "rename one of them")


def _fits(study: Study) -> Iterator[Finding]:
    for name, entry in study.crosscoders.items():
        grid = {key: list(dict.fromkeys(values)) for key, values in entry.grid if values}
        count = math.prod(len(values) + 1 for values in (*grid.values(), set(entry.seeds)))
        longest = name + "".join(f".{key}={max(map(str, values), key=len)}" for key, values in grid.items())
        longest += f".seed={max(map(str, entry.seeds), key=len)}" if entry.seeds else ""
        if count > MOST_FITS:
            problem = f"up to {count:,} fits by its grid and seeds, each a job"
            yield Finding(f"crosscoders.{name}.grid", problem, f"ask for at most {MOST_FITS:,}")
        elif len(longest) > LONGEST_FILE:
            problem = f"names of its fits have up to {len(longest)} characters"
            yield Finding(f"crosscoders.{name}", problem, f"shorten its name: files take {LONGEST_FILE}")


def _results(study: Study) -> Iterator[Finding]:
    root = study.results / study.study
    if len(os.path.abspath(root)) > LONGEST_ROOT:  # noqa: PTH100  # resolves no links
        yield Finding("results", f"a path of more than {LONGEST_ROOT} characters", "take a folder with a shorter path")
        return
    there = next((folder for folder in (root, *root.parents) if os.path.lexists(folder)), None)
    try:
        if there and not stat.S_ISDIR(there.stat().st_mode):
            yield Finding("results", f"{there} is a file, and a folder is needed there", "take another folder")
    except OSError as error:
        yield Finding("results", f"{there}: {error.strerror}", "take a folder that you can read and write")


def _reachable(key: str, path: Path) -> Iterator[Finding]:
    """Yield why a path cannot be looked at. Whether it must be there is another check's question."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield Finding(key, f"{path}: {error.strerror}", "correct the path, or let yourself read it")


def _config(key: str, folder: Path) -> Iterator[Finding]:
    """Yield why a model's config.json cannot be read."""
    file = folder / "config.json"
    try:
        if not file.is_file():
            return
        if file.stat().st_size > MOST_CONFIG:
            raise ValueError(f"has more than {MOST_CONFIG:,} bytes")
        if not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
            raise ValueError("is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        yield Finding(
            key, f"{file}: cannot be read: {reason}", "give a folder in Hugging Face format, or fetch it again"
        )
