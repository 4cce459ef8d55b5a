"""Where training problems come from: the miniature world, local files, data sets of the hub."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlgen.data.filters import Problem
from rlgen.data.hub import read_hub
from rlgen.data.jsonl import read_rows
from rlgen.data.miniature import TASKS, draw_distinct, teacher_solution
from rlgen.data.prompts import PromptError, PromptTemplate, check_template
from rlgen.data.rows import Row
from rlgen.data.values import is_blank
from rlgen.errors import StudyError
from rlgen.stage import derive_seed
from rlgen.study.sections import HubProblems, JsonlProblems, MiniatureProblems, ProblemSource
from rlgen.study.stages import ProblemsSettings


def described(source: ProblemSource) -> str:
    """A source's name."""
    if isinstance(source, MiniatureProblems):
        return f"the miniature's {source.task}"
    return str(source.path) if isinstance(source, JsonlProblems) else f"{source.path} ({source.split})"


def problems_of(settings: ProblemsSettings, index: int, revision: str | None) -> Iterator[Problem]:
    """Read the problems of a source in its own order, before any filter.

    Args:
        settings: The study's problems.
        index: Which of their sources.
        revision: The commit of a source on the hub.

    Returns:
        The problems. A row of the hub that lacks a text is `incomplete`, unless the study refuses such rows.

    Raises:
        StudyError: A row cannot be used (file, row and field are named), or the prompt is no template over `problem`.
    """
    found = settings.problems
    source = found.sources[index]
    prefix = f"{index}:" if len(found.sources) > 1 else ""  # ids of two sources may be the same
    if isinstance(source, MiniatureProblems):
        return _drawn(source, derive_seed(settings.seed, "problems", source.task), f"problems.sources.{index}", prefix)
    template = _template(found.prompt)
    if source.problem in (source.answer, source.solution):
        raise StudyError(
            f"problems.sources.{index}.problem: field `{source.problem}` is the answer or solution, too; name the "
            "field with the problem alone"
        )
    if isinstance(source, JsonlProblems):
        return (_problem(row, source, template, prefix) for row in read_rows(source.path))
    rows = read_hub(source.path, source.name, source.split, revision, f"problems.sources.{index}")
    lenient = found.unverifiable != "refuse"
    return (_of_hub(row, source, template, prefix, lenient) for row in rows)


def _template(prompt: str) -> PromptTemplate:
    try:
        return check_template(prompt, allowed=("problem",))
    except PromptError as error:
        raise StudyError(f"problems.prompt: {error}") from None


def _drawn(source: MiniatureProblems, seed: int, key: str, prefix: str) -> Iterator[Problem]:
    try:
        items = draw_distinct(TASKS[source.task], source.items, np.random.default_rng(seed), "train")
    except ValueError as error:
        raise StudyError(f"{key}.items: {source.items} asked for; {error}") from None
    for number, item in enumerate(items):
        yield Problem(
            id=f"{prefix}{source.task}-{number}",
            where=f"{key}, problem {number}",
            text=item.prompt,
            prompt=item.prompt,
            answer=item.answer,
            solution=teacher_solution(item),
            of_world=True,
        )


def _of_hub(row: Row, source: HubProblems, template: PromptTemplate, prefix: str, lenient: bool) -> Problem:
    """Return the problem of a row that somebody else made. A field that no row has is the study's mistake."""
    fields = [source.problem, source.answer, source.solution, source.level if source.levels else None]
    empty = next((f for f in fields if f in row.values and not _told(row.values[f])), None)
    if empty is None:
        return _problem(row, source, template, prefix)
    if not lenient:
        raise StudyError(
            f"{row.where}: field `{empty}` is empty; set `problems.unverifiable: drop` to leave such rows out"
        )
    return Problem(f"{prefix}{row.name()}", row.where, "", "", "", None, incomplete=empty)


def _told(value: object) -> bool:
    """Return whether a value is there: pandas writes NaN for null."""
    return value is not None and value == value and not is_blank(str(value))


def _problem(row: Row, source: JsonlProblems | HubProblems, template: PromptTemplate, prefix: str) -> Problem:
    text = row.text(source.problem)
    return Problem(
        id=f"{prefix}{row.name()}",
        where=row.where,
        text=text,
        prompt=template.fill({"problem": text}),
        answer=row.text(source.answer),
        solution=row.text(source.solution) if source.solution else None,
        level=row.level(source.level) if source.level and source.levels else None,
        levels=source.levels if source.level else None,
    )
