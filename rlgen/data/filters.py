"""Which problems are left out of both arms, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlgen.data.answers import is_verifiable
from rlgen.data.overlap import Evaluated, words
from rlgen.errors import StudyError
from rlgen.study.sections import Problems

Count = Callable[[str, bool], int]
"""Tokens of a text; whether it is a solution, which has an end token and no beginning token."""


@dataclass(frozen=True)
class Problem:
    """A problem as its source gives it."""

    id: str
    where: str
    """File and line, or data set and row, for messages."""
    text: str
    prompt: str
    answer: str
    solution: str | None
    level: Any = None
    """The difficulty, if the source asks for some levels only."""
    levels: tuple[float, float] | None = None
    """The levels asked for."""
    of_world: bool = False
    """Drawn from the miniature world, apart from every evaluation item."""
    incomplete: str | None = None
    """The field that its row has no text in; the problem has none either."""

    def row(self) -> dict[str, Any]:
        """As it stands in problems.jsonl."""
        text = {} if self.text == self.prompt else {"problem": self.text}
        return {"id": self.id, **text, "prompt": self.prompt, "answer": self.answer, "solution": self.solution}


@dataclass(frozen=True)
class Drop:
    """Why a problem is left out."""

    reason: str
    detail: str
    task: str | None = None
    """The task whose item it repeats."""


class Filters:
    """All filters, in their order; a problem is compared with those kept before it."""

    def __init__(self, settings: Problems, evaluated: Evaluated, count: Count | None) -> None:
        """`count` is needed if the settings limit tokens."""
        self._settings, self._evaluated, self._count = settings, evaluated, count
        self._kept: dict[str, str] = {}

    def __call__(self, problem: Problem) -> Drop | None:
        """Why a problem is left out; None if it is kept.

        Raises StudyError, naming the row, if its answer cannot be verified and the study does not say what to do.
        """
        if problem.incomplete:
            return Drop("incomplete", problem.incomplete)
        text = " ".join(words(problem.text))
        found = (
            _off_level(problem)
            or self._repeated(text)
            or self._contaminated(problem)
            or self._too_long(problem)
            or self._unverifiable(problem)
        )
        if found is None:
            self._kept[text] = problem.id
        return found

    def _repeated(self, text: str) -> Drop | None:
        return Drop("duplicate", f"of {self._kept[text]}") if text in self._kept else None

    def _contaminated(self, problem: Problem) -> Drop | None:
        found = None if problem.of_world else self._evaluated.find(problem.text)
        if found is None:
            return None
        return Drop("contaminated", f"{found.item.task}, item {found.item.id}: {found.how}", found.item.task)

    def _too_long(self, problem: Problem) -> Drop | None:
        limits = (
            ("prompt", problem.prompt, self._settings.max_prompt_tokens),
            ("solution", problem.solution, self._settings.max_solution_tokens),
        )
        for what, text, limit in limits:
            if limit is not None and text is not None:
                assert self._count is not None
                tokens = self._count(text, what == "solution")
                if tokens > limit:
                    return Drop(f"{what} too long", f"{tokens} tokens")
        return None

    def _unverifiable(self, problem: Problem) -> Drop | None:
        if self._settings.unverifiable == "keep" or is_verifiable(problem.prompt, problem.answer):
            return None
        if self._settings.unverifiable == "refuse":
            raise StudyError(
                f"{problem.where}: no response could be found to match the answer {problem.answer!r}: math-verify "
                "cannot read it, and it is not one line of plain text; mend it, or set `problems.unverifiable: drop`"
            )
        return Drop("unverifiable", problem.answer)


def counter(base: Path | None) -> Count:
    """Counts tokens by the base's tokenizer. Raises StudyError if there is no base."""
    from rlgen.models import load_tokenizer

    if base is None:
        raise StudyError("problems: lengths are limited in tokens of the base's tokenizer; give the base by --base")
    tokenizer = load_tokenizer(base)

    def count(text: str, solution: bool) -> int:
        return len(tokenizer(text, add_special_tokens=not solution, verbose=False)["input_ids"]) + solution

    return count


def _off_level(problem: Problem) -> Drop | None:
    if problem.levels is None:
        return None
    low, high = problem.levels
    level = level_of(problem.level)
    return None if level is not None and low <= level <= high else Drop("level", str(problem.level))


def level_of(value: Any) -> float | None:
    """A number, or a text's first one: 3 of `Level 3` and of `level-3`; None if there is none, which no range has."""
    if isinstance(value, (int, float)):
        return value  # a long integer has no float
    number = re.search(r"((?<!\w)-)?\d+(\.\d+)?", str(value))
    return float(number[0]) if number else None
