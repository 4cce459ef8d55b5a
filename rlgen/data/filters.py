"""Which problems are left out of both arms, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlgen.data.overlap import Evaluated, words
from rlgen.errors import StudyError
from rlgen.study.sections import Problems
from rlgen.verifiers import DEFAULT, load_verifier

Count = Callable[[str, str | None], int]
"""Tokens of a prompt as it is asked; or, if a solution is given, of the solution after it, with its end token."""


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

    def __init__(self, settings: Problems, evaluated: Evaluated, count: Count | None, verifier: str = DEFAULT) -> None:
        """Prepare the filters.

        Args:
            settings: The study's section.
            evaluated: The items that no problem may repeat.
            count: Counts tokens; needed if the settings limit them.
            verifier: The verifier that will judge answers to the problems.
        """
        self._verifier = load_verifier(verifier)
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
            ("prompt", None, self._settings.max_prompt_tokens),
            ("solution", problem.solution, self._settings.max_solution_tokens),
        )
        for what, solution, limit in limits:
            if limit is not None and (what == "prompt" or solution is not None):
                assert self._count is not None
                tokens = self._count(problem.prompt, solution)
                if tokens > limit:
                    return Drop(f"{what} too long", f"{tokens} tokens")
        return None

    def _unverifiable(self, problem: Problem) -> Drop | None:
        if self._settings.unverifiable == "keep":
            return None
        why = self._verifier.unverifiable(problem.answer)
        if why is None:
            return None
        if self._settings.unverifiable == "refuse":
            raise StudyError(
                f"{problem.where}: verifier `{self._verifier.name}` cannot judge responses by the answer "
                f"{_shown(problem.answer)}: {why}; mend it, name another `problems.verifier`, or set "
                "`problems.unverifiable: drop`"
            )
        return Drop("unverifiable", f"{problem.answer}: {why}")


def _shown(answer: str) -> str:
    return repr(answer if len(answer) <= 200 else f"{answer[:200]}...")


def counter(base: Path | None) -> Count:
    """Counts tokens by the base's tokenizer. Raises StudyError if there is no base."""
    from rlgen.models import load_tokenizer
    from rlgen.token_sets import encode, encode_example

    if base is None:
        raise StudyError("problems: lengths are limited in tokens of the base's tokenizer; give the base by --base")
    tokenizer = load_tokenizer(base)

    def count(prompt: str, solution: str | None) -> int:
        if solution is None:
            return len(encode(tokenizer, prompt))
        return len(encode_example(tokenizer, prompt, solution).answer)

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
