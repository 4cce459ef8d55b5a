"""Solutions of a teacher: sampled until one is right; problems without one leave every arm."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlgen.data.filters import counter
from rlgen.data.jsonl import write_rows
from rlgen.data.problems import CARD, DROPPED, PROBLEMS, read_problems
from rlgen.data.prompts import PromptError, check_template
from rlgen.errors import StudyError
from rlgen.models import load_config, load_tokenizer, locate
from rlgen.posttrain.engines import Engine, Written, load_engine
from rlgen.stage import Workspace, derive_seed, file_digest, stage, write_json
from rlgen.study.sections import Teacher
from rlgen.study.stages import TeacherSettings
from rlgen.token_sets import Ids, encode, encode_chat
from rlgen.verifiers import load_verifier

log = logging.getLogger("rlgen")

RIGHT, WRONG, UNFINISHED, TOO_LONG = "right", "wrong", "unfinished", "too long"
"""What becomes of a solution: `too long` is right, and has more tokens than problems.max_solution_tokens."""

Row = dict[str, Any]


def teach(settings: TeacherSettings, model: Path, problems: Path, out: Path, base: Path | None = None) -> None:
    """Write the problems that the teacher solves with its solutions, in their own order; a card; what was left out.

    Of every problem, up to `tries` solutions are sampled. The first is taken that ends by itself, is right, and is not
    too long in tokens of `base`. Raises StudyError if the teacher has no chat template and is asked by one, a prompt
    leaves no room for a solution, or no problem is solved.
    """
    inputs = {"teacher": model, "problems": problems} | ({"base": base} if base else {})
    inputs |= {file: Path(file) for file in settings.verifier_files}
    with stage("teacher", settings, inputs, out) as work:
        lesson = _Lesson(settings, model, problems, base, work)
        tried = [lesson.attempt(number) for number in range(settings.teacher.tries)]
        if not lesson.solved:
            raise StudyError(f"{problems}: the teacher solved none of {len(lesson.rows)} problems: {_told(tried)}")
        kept = [{**row, "solution": lesson.solved[row["id"]]} for row in lesson.rows if row["id"] in lesson.solved]
        write_rows(work.folder / PROBLEMS, kept)
        write_rows(work.folder / DROPPED, lesson.unsolved())
        work.digest = file_digest(work.folder / PROBLEMS)
        card = _card(settings, model, len(lesson.rows), len(kept), tried)
        write_json(work.folder / CARD, card)
        log.info("teacher: %d of %d problems solved: %s", len(kept), len(lesson.rows), _told(tried))


class _Lesson:
    """The problems while they are solved. A unit is a batch of one try: a file in the scratch folder."""

    def __init__(
        self, settings: TeacherSettings, model: Path, problems: Path, base: Path | None, work: Workspace
    ) -> None:
        self.rows = read_problems(problems)
        self.solved: dict[str, str] = {}
        """Solutions by problem."""
        self._settings, self._teacher, self._model, self._work = settings, settings.teacher, model, work
        self._verifier = load_verifier(settings.verifier)
        self._tokenizer = load_tokenizer(model)
        self._prompts = _prompts(self.rows, settings.teacher, model, self._tokenizer)
        self._count = counter(base) if settings.max_solution_tokens else None
        self._outcomes: dict[str, list[str]] = {row["id"]: [] for row in self.rows}

    @cached_property
    def _engine(self) -> Engine:
        seed = derive_seed(self._settings.seed, "teacher")
        longest = max(map(len, self._prompts.values()))
        return load_engine(self._teacher, self._model, self._tokenizer, seed, longest)

    def attempt(self, number: int) -> Counter[str]:
        """Sample a solution of every problem that has none; returns what became of them."""
        rows, found = [row for row in self.rows if row["id"] not in self.solved], Counter[str]()
        progress = self._work.progress(len(rows), "problems")
        for start in range(0, len(rows), self._teacher.batch_size):
            batch = rows[start : start + self._teacher.batch_size]
            unit = self._work.scratch / f"try-{number}-{start:08d}.json"
            if not unit.exists():
                write_json(unit, self._solve(batch, number))
            for row, (outcome, text) in zip(batch, json.loads(unit.read_text()), strict=True):
                self._outcomes[row["id"]].append(outcome)
                found[outcome] += 1
                if outcome == RIGHT:
                    self.solved[row["id"]] = text
            progress.to(start + len(batch), f"try {number + 1}, {found[RIGHT]} right")
        return found

    def unsolved(self) -> list[Row]:
        """What was left out."""
        return [
            {"id": name, "source": "teacher", "reason": "no right solution", "detail": ", ".join(outcomes)}
            for name, outcomes in self._outcomes.items()
            if name not in self.solved
        ]

    def _solve(self, batch: Sequence[Row], number: int) -> list[tuple[str, str]]:
        """What became of a batch's solutions, and the right ones' texts."""
        found = []
        for row, written in zip(
            batch, self._engine.write([self._prompts[r["id"]] for r in batch], number), strict=True
        ):
            outcome = self._judge(row, written)
            found.append((outcome, written.text if outcome == RIGHT else ""))
        return found

    def _judge(self, row: Row, written: Written) -> str:
        limit = self._settings.max_solution_tokens
        if not written.ended:
            return UNFINISHED
        if not self._verifier(written.text, row["answer"]).right:
            return WRONG
        return TOO_LONG if limit and self._count and self._count(row["prompt"], written.text) > limit else RIGHT


def _prompts(rows: Sequence[Row], teacher: Teacher, model: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Ids]:
    """What the teacher is asked, by problem."""
    where = locate(model).path
    if teacher.chat and not tokenizer.chat_template:
        raise StudyError(f"teacher.chat: {where} has no chat template; set `chat: false`, or take a model that has one")
    try:
        template = check_template(teacher.prompt, allowed=("problem",))
    except PromptError as error:
        raise StudyError(f"teacher.prompt: {error}") from None
    longest = getattr(load_config(model).get_text_config(), "max_position_embeddings", None)
    found = {}
    for row in rows:
        text = template.fill({"problem": row.get("problem") or row["prompt"]})
        ids = encode_chat(tokenizer, text) if teacher.chat else encode(tokenizer, text)
        if longest and len(ids) + teacher.max_new_tokens > longest:
            raise StudyError(
                f"teacher.max_new_tokens: {teacher.max_new_tokens}, after {len(ids)} of problem `{row['id']}`, "
                f"exceed the {longest} of {where}; lower it, or limit problems.max_prompt_tokens"
            )
        found[row["id"]] = ids
    return found


def _card(settings: TeacherSettings, model: Path, problems: int, kept: int, tried: Sequence[Counter[str]]) -> Row:
    """Acceptance: overall, of problems; by try, of the solutions that were sampled."""
    where = locate(model)
    return {
        "model": {"path": where.path, "revision": where.revision},
        "problems": problems,
        "kept": kept,
        "acceptance": kept / problems,
        "tries": [
            {"sampled": c.total(), "acceptance": c[RIGHT] / c.total(), "outcomes": c} for c in tried if c.total()
        ],
        "outcomes": sum(tried, Counter[str]()),
        "settings": json.loads(settings.canonical()),
    }


def _told(tried: Sequence[Counter[str]]) -> str:
    counts = sum(tried, Counter[str]())
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in (RIGHT, WRONG, UNFINISHED, TOO_LONG))
