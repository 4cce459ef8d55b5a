"""Training problems: the same rows, in the same order, for every arm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlgen.data.jsonl import Row, read_rows, unique_names, write_rows
from rlgen.data.miniature import TASKS, draw_distinct, teacher_solution
from rlgen.errors import StudyError
from rlgen.stage import derive_seed, stage
from rlgen.study.sections import JsonlProblems, MiniatureProblems
from rlgen.study.stages import ProblemsSettings

PROBLEMS = "problems.jsonl"
"""Rows {id, prompt, answer, solution}; the solution is null where there is none."""


def make_problems(settings: ProblemsSettings, out: Path) -> None:
    """Write the problems.

    Raises StudyError if the source has no rows, a row lacks a field (file, line and field are named), or the
    world's task has fewer items than asked for.
    """
    found = settings.problems
    with stage("problems", settings, _inputs(found), out) as work:
        if isinstance(found, MiniatureProblems):
            rows = _miniature(found, derive_seed(settings.seed, "problems", found.task))
        else:
            rows = _jsonl(found)
        if not write_rows(work.folder / PROBLEMS, unique_names(rows)):
            raise StudyError(f"problems.path: {_inputs(found)['source']} has no rows; training needs at least one")


def read_problems(folder: Path) -> list[dict[str, Any]]:
    """The rows of a problems artifact."""
    with (folder / PROBLEMS).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _inputs(found: MiniatureProblems | JsonlProblems) -> dict[str, Path]:
    return {"source": found.path} if isinstance(found, JsonlProblems) else {}


def _miniature(found: MiniatureProblems, seed: int) -> Iterator[dict[str, Any]]:
    try:
        items = draw_distinct(TASKS[found.task], found.items, np.random.default_rng(seed), "train")
    except ValueError as error:
        raise StudyError(f"problems.items: {found.items} asked for; {error}") from None
    for index, item in enumerate(items):
        yield {
            "id": f"{found.task}-{index}",
            "prompt": item.prompt,
            "answer": item.answer,
            "solution": teacher_solution(item),
        }


def _jsonl(found: JsonlProblems) -> Iterator[dict[str, Any]]:
    return (_row(row, found) for row in read_rows(found.path, found.items))


def _row(row: Row, found: JsonlProblems) -> dict[str, Any]:
    return {
        "id": row.name(),
        "prompt": row.fill(found.prompt),
        "answer": row.text(found.answer),
        "solution": row.text(found.solution) if found.solution else None,
    }
