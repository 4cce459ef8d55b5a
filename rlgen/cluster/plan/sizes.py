"""How much a study reads and writes: numbers of problems, items and tokens, before any of it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlgen.cluster.plan.language import Answers
from rlgen.data.benchmarks import load_benchmark
from rlgen.study import Study
from rlgen.study.sections import BenchmarkTask, GrpoArm, JsonlProblems, JsonlTask, MiniatureProblems, SftArm, Task

UNKNOWN_PROBLEMS = 25_000
"""Problems of a source whose size is not given: the paper's two have about twice as many together."""
UNKNOWN_ITEMS = 1000
"""Items of a task whose file is not here yet."""
PROMPT, CHOICES, CHOICE = 100, 4, 8
"""Tokens of a task's or a problem's prompt, choices of an item, tokens of a choice."""
MINIATURE_PROMPT = 16
"""Tokens of a prompt of the miniature world."""
TRIES = 0.5
"""Share of the problems left that a teacher solves with each try."""


@dataclass(frozen=True)
class Asked:
    """One task as it is put to one model."""

    items: float
    prompt: float
    choices: int
    """0: the answer is written."""
    samples: int
    length: float
    """Mean tokens of a written answer, or of a choice."""
    longest: float

    @property
    def answers(self) -> float:
        """Answers an item."""
        return self.choices or self.samples


class Sizes:
    """Of one study. Answers are taken to be `share` of the longest ones long."""

    def __init__(self, study: Study, share: float) -> None:
        self._study, self._share = study, share

    @property
    def miniature(self) -> bool:
        """Whether the problems are the miniature world's."""
        return not self._study.problems.from_rows

    @property
    def prompt(self) -> float:
        """Mean tokens of a problem's prompt."""
        return MINIATURE_PROMPT if self.miniature else PROMPT

    @property
    def problems(self) -> float:
        """Problems that every arm is trained on."""
        return float(sum(map(self._problems_of, self._study.problems.sources)))

    def _problems_of(self, source: object) -> int:
        if isinstance(source, MiniatureProblems):
            return source.items
        count: int | None = getattr(source, "items", None)
        if count is None and isinstance(source, JsonlProblems):
            count = _lines(source.path)
        return count or UNKNOWN_PROBLEMS

    def solution(self, arm: SftArm) -> float:
        """Mean tokens of a problem with its solution."""
        return self.prompt + self._share * (arm.max_length - self.prompt)

    def rollouts(self, arm: GrpoArm) -> Answers:
        """An arm's completions, over the whole of its training."""
        longest = arm.max_completion_length
        steps = arm.steps(round(self.problems))
        return Answers(steps * arm.batch_size, self.prompt, self._share * longest, longest)

    def asked(self, task: Task) -> Asked:
        """A task's items, prompts and answers."""
        evaluation = self._study.evaluation
        longest = task.max_new_tokens or evaluation.max_new_tokens
        prompt, rows, kind = PROMPT, task.items, "generate"
        if isinstance(task, BenchmarkTask):
            benchmark = load_benchmark(task.benchmark_name)
            longest = task.max_new_tokens or benchmark.max_new_tokens or evaluation.max_new_tokens
            kind, rows = benchmark.format, min(task.items or benchmark.rows, benchmark.rows)
        elif isinstance(task, JsonlTask):
            kind, rows = task.format, task.items or _lines(task.path)
        else:
            prompt = MINIATURE_PROMPT
        items = rows or UNKNOWN_ITEMS
        if kind == "multiple_choice":
            return Asked(items, prompt, CHOICES, 1, CHOICE, CHOICE)
        return Asked(items, prompt, 0, task.samples or evaluation.samples, self._share * longest, longest)

    @property
    def teacher(self) -> Answers:
        """The teacher's attempts."""
        teacher = self._study.teacher
        assert teacher is not None
        tried = sum((1 - TRIES) ** attempt for attempt in range(teacher.tries))
        longest = teacher.max_new_tokens
        return Answers(self.problems * tried, self.prompt, self._share * longest, longest)


def _lines(path: Path) -> int | None:
    if not path.is_file():
        return None
    with path.open("rb") as lines:
        return sum(1 for _ in lines)
