"""Training problems: the same rows, in the same order, for every arm.

Whatever leaves out a problem does so here (or where a teacher solves them): no arm may drop one by itself, or the arms
would differ in more than their training signal. An arm that cannot take a row ends with an error that names it.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlgen.data.filters import Drop, Filters, Problem, counter
from rlgen.data.hub import pins
from rlgen.data.jsonl import check_file, unique_names, write_rows
from rlgen.data.overlap import Evaluated, Item
from rlgen.data.sources import described, problems_of
from rlgen.data.tasks import TASK_JSON, read_items
from rlgen.errors import StudyError
from rlgen.stage import Workspace, atomic_path, derive_seed, file_digest, stage, write_json
from rlgen.study.sections import HubProblems, JsonlProblems, Problems
from rlgen.study.stages import ProblemsSettings

log = logging.getLogger("rlgen")

PROBLEMS = "problems.jsonl"
"""Rows {id, problem, prompt, answer, solution}: the solution is null where there is none; the problem's own text is
left out where it is the prompt."""
CARD = "card.json"
"""{sources: [{where, revision, read, kept, dropped: {reason: n}}], kept, contaminated: {task: n}, settings}."""
DROPPED = "dropped.jsonl"
"""Rows {id, source, reason, detail}: what was left out, and why."""


def make_problems(settings: ProblemsSettings, out: Path, tasks: Sequence[Path] = (), base: Path | None = None) -> None:
    """Write the problems that pass every filter, a card of what was left out, and the list of it.

    Filters, in order: a row of the hub without text in a field (an error where unverifiable problems are refused, or in
    a local file), level out of range, duplicate of a problem kept before, repeats an item of `tasks`, too long in
    tokens of `base`, answer unverifiable. A source's `items` counts what is kept. Raises StudyError if nothing is left,
    a row lacks a field (file, line and field are named), or the world's task has fewer items than asked for.
    """
    found = settings.problems
    for i, source in enumerate(found.sources):
        if isinstance(source, JsonlProblems):
            check_file(source.path, f"problems.sources.{i}.path")
    inputs = _files(found) | {file: Path(file) for file in settings.verifier_files}
    inputs |= {f"task {folder.name}": folder for folder in tasks} | ({"base": base} if base else {})
    with stage("problems", settings, inputs, out) as work:
        hub = {f"problems.sources.{i}": s for i, s in enumerate(found.sources) if isinstance(s, HubProblems)}
        commits = pins(work, {key: (source.path, source.revision) for key, source in hub.items()})
        filters = Filters(
            found, Evaluated(_evaluated(tasks)), counter(base) if found.limited else None, settings.verifier
        )
        made = _Made(settings, filters, commits)
        _write(work, unique_names(made.rows()), found.shuffle, derive_seed(settings.seed, "problems", "shuffle"))
        card = made.card()
        if not card["kept"]:
            raise StudyError(f"problems.sources: no problem is left of {_told(card)}; training needs at least one")
        write_rows(work.folder / DROPPED, made.dropped)
        work.digest = file_digest(work.folder / PROBLEMS)  # what arms read; the same problems are the same artifact
        write_json(work.folder / CARD, card)
        log.info("problems: %d kept of %s", card["kept"], _told(card))


def read_problems(folder: Path) -> list[dict[str, Any]]:
    """The rows of a problems artifact."""
    with (folder / PROBLEMS).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class _Made:
    """The problems while they are read, and what is counted of them."""

    def __init__(self, settings: ProblemsSettings, filters: Filters, commits: dict[str, str | None]) -> None:
        self._settings, self._filters, self._commits = settings, filters, commits
        self._sources: list[dict[str, Any]] = []
        self._contaminated: Counter[str] = Counter()
        self.dropped: list[dict[str, Any]] = []

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what is kept, source after source, with where it comes from."""
        for index in range(len(self._settings.problems.sources)):
            yield from self._kept(index)

    def card(self) -> dict[str, Any]:
        """What was read, kept and left out; complete when the rows have been taken."""
        return {
            "sources": self._sources,
            "kept": sum(about["kept"] for about in self._sources),
            "contaminated": dict(self._contaminated),
            "settings": json.loads(self._settings.canonical())["problems"],
        }

    def _kept(self, index: int) -> Iterator[tuple[str, dict[str, Any]]]:
        source, revision = self._settings.problems.sources[index], self._commits.get(f"problems.sources.{index}")
        dropped: Counter[str] = Counter()
        about: dict[str, Any] = {"where": described(source), "revision": revision, "read": 0, "kept": 0}
        about["dropped"] = dropped
        self._sources.append(about)
        for problem in problems_of(self._settings, index, revision):
            about["read"] += 1
            if drop := self._filters(problem):
                dropped[drop.reason] += 1
                self._drop(problem, about["where"], drop)
            else:
                about["kept"] += 1
                yield problem.where, problem.row()
            if about["kept"] == source.items:
                break

    def _drop(self, problem: Problem, source: str, drop: Drop) -> None:
        self.dropped.append({"id": problem.id, "source": source, "reason": drop.reason, "detail": drop.detail})
        if drop.task:
            self._contaminated[drop.task] += 1


def _files(found: Problems) -> dict[str, Path]:
    """The sources that are here."""
    here = {i: Path(s.path) for i, s in enumerate(found.sources) if isinstance(s, JsonlProblems)}
    here |= {i: Path(s.path) for i, s in enumerate(found.sources) if isinstance(s, HubProblems) and s.local}
    return {f"source {i}": path for i, path in here.items()}


def _evaluated(tasks: Sequence[Path]) -> Iterator[Item]:
    for folder in tasks:
        name = json.loads((folder / TASK_JSON).read_text())["name"]
        for row in read_items(folder):
            yield Item(name, row["id"], row.get("question") or row["prompt"])


def _write(work: Workspace, rows: Iterator[dict[str, Any]], shuffle: bool, seed: int) -> None:
    """The rows, in the order in which they come or in a random one: never all of them in memory."""
    if not shuffle:
        write_rows(work.folder / PROBLEMS, rows)
        return
    ordered = work.scratch / PROBLEMS
    write_rows(ordered, rows)
    with ordered.open("rb") as lines, atomic_path(work.folder / PROBLEMS) as path, path.open("wb") as shuffled:
        starts = np.cumsum([0, *map(len, lines)])[:-1]
        for start in np.random.default_rng(seed).permutation(starts).tolist():
            lines.seek(start)
            shuffled.write(lines.readline())


def _told(card: dict[str, Any]) -> str:
    return "; ".join(
        f"{about['read']} read from {about['where']}"
        + "".join(f", {count} {reason}" for reason, count in sorted(about["dropped"].items()))
        for about in card["sources"]
    )
