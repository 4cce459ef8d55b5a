"""Where training problems come from: the miniature world, local files, data sets of the hub."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlgen.data.filters import Problem
from rlgen.data.hub import read_hub
from rlgen.data.jsonl import Row, read_rows
from rlgen.data.miniature import TASKS, draw_distinct, teacher_solution
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
    """A source's problems, unfiltered, in its own order; `revision` is the commit of one on the hub.

    A row of the hub that lacks a text is `incomplete` where the study does not refuse what it cannot use. Raises
    StudyError, naming file, row and field, if another one does.
    """
    found = settings.problems
    source = found.sources[index]
    prefix = f"{index}:" if len(found.sources) > 1 else ""  # ids of two sources may be the same
    if isinstance(source, MiniatureProblems):
        return _drawn(source, derive_seed(settings.seed, "problems", source.task), f"problems.sources.{index}", prefix)
    if isinstance(source, JsonlProblems):
        return (_problem(row, source, found.prompt, prefix) for row in read_rows(source.path))
    rows = read_hub(source.path, source.name, source.split, revision, f"problems.sources.{index}")
    lenient = found.unverifiable != "refuse"
    return (_of_hub(row, source, found.prompt, prefix, lenient) for row in rows)


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


def _of_hub(row: Row, source: HubProblems, prompt: str, prefix: str, lenient: bool) -> Problem:
    """A problem of a row that somebody else made; a field that the row does not have at all is the study's mistake."""
    fields = [source.problem, source.answer, source.solution, source.level if source.levels else None]
    empty = next((f for f in fields if f in row.values and not _told(row.values[f])), None)
    if empty is None:
        return _problem(row, source, prompt, prefix)
    if not lenient:
        raise StudyError(
            f"{row.where}: field `{empty}` is empty; set `problems.unverifiable: drop` to leave such rows out"
        )
    return Problem(f"{prefix}{row.name()}", row.where, "", "", "", None, incomplete=empty)


def _told(value: object) -> bool:
    return value is not None and bool(str(value).strip())


def _problem(row: Row, source: JsonlProblems | HubProblems, prompt: str, prefix: str) -> Problem:
    text = row.text(source.problem)
    return Problem(
        id=f"{prefix}{row.name()}",
        where=row.where,
        text=text,
        prompt=prompt.format(problem=text),
        answer=row.text(source.answer),
        solution=row.text(source.solution) if source.solution else None,
        level=row.get(source.level) if source.level and source.levels else None,
        levels=source.levels if source.level else None,
    )
