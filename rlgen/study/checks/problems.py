"""Training problems: whether their sources are there, and what they are held against."""

from __future__ import annotations

from collections.abc import Iterator

from rlgen.data.prompts import PromptError, check_template
from rlgen.study.checks.finding import Finding
from rlgen.study.sections import (
    ExistingBase,
    HubProblems,
    JsonlProblems,
    MiniatureProblems,
    ProblemText,
    SftArm,
    TrainedArm,
)
from rlgen.study.study import Study


def check_problems(study: Study) -> Iterator[Finding]:
    """What is wrong with the problems."""
    yield from _missing(study)
    yield from _sources(study)
    yield from _levels(study)
    yield from _format("problems.prompt", study.problems.prompt)
    yield from _solutions(study)
    yield from _teacher(study)
    for name in study.problems.decontaminate or []:
        if name not in study.task_names:
            remedy = f"use some of: {', '.join(study.task_names)}"
            yield Finding("problems.decontaminate", f"no task `{name}`", remedy)


def _missing(study: Study) -> Iterator[Finding]:
    """Yield what needs problems where there are none."""
    if study.problems.sources:
        return
    key = "problems.sources" if "problems" in study.model_fields_set else "problems"
    remedy = "name at least 1 item of problems.sources"
    for arm in study.arms:
        if isinstance(arm, TrainedArm):
            problem = f"arm `{arm.name}` ({arm.method}) is trained here, and there are no problems to train it on"
            yield Finding(key, problem, f"{remedy}, or take a finished arm (method: existing)")
    if study.teacher is not None:
        yield Finding(key, "the teacher solves problems, and there are none", f"{remedy}, or leave the teacher out")
    for i, source in enumerate(study.corpus.sources):
        if isinstance(source, ProblemText):
            problem = "takes the text of the training problems, and there are none"
            yield Finding(f"corpus.sources[{i}].source", problem, f"take another source, or {remedy}")


def _sources(study: Study) -> Iterator[Finding]:
    for i, source in enumerate(study.problems.sources):
        key = f"problems.sources[{i}]"
        if isinstance(source, JsonlProblems) and not source.path.is_file():
            remedy = "give a JSONL file, relative to the working directory"
            yield Finding(f"{key}.path", f"no such file: {source.path}", remedy)
        if isinstance(source, HubProblems) and not source.local and source.path.startswith((".", "/")):
            remedy = "give a folder of data files, or a hub id"
            yield Finding(f"{key}.path", f"no such folder: {source.path}", remedy)
        if isinstance(source, MiniatureProblems) and isinstance(study.base, ExistingBase):
            problem = "the miniature world needs the base that is pretrained on it"
            yield Finding(f"{key}.source", problem, "set base.method to `pretrain`, or use source `jsonl` or `hub`")


def _levels(study: Study) -> Iterator[Finding]:
    for i, source in enumerate(study.problems.sources):
        if isinstance(source, MiniatureProblems) or source.levels is None:
            continue
        low, high = source.levels
        if source.level is None:
            problem = f"{low:g} to {high:g}, of a level that is in no field"
            yield Finding(f"problems.sources[{i}].levels", problem, "name the field by `level`")
        if low > high:
            yield Finding(f"problems.sources[{i}].levels", f"{low:g} is above {high:g}", "give the lowest first")


def _format(key: str, template: str) -> Iterator[Finding]:
    """Yield what is wrong with a prompt template over `problem`."""
    remedy = "write {problem} where the problem goes, and double all other braces"
    try:
        check_template(template, allowed=("problem",))
    except PromptError as error:
        yield Finding(key, error.problem, remedy)


def _teacher(study: Study) -> Iterator[Finding]:
    if study.teacher is None:
        return
    yield from _format("teacher.prompt", study.teacher.prompt)
    if study.teacher.temperature == 0 and study.teacher.tries > 1:
        problem = f"at temperature 0, all {study.teacher.tries} solutions of a problem are the same"
        yield Finding("teacher.tries", problem, "set it to 1, or give a temperature")


def _solutions(study: Study) -> Iterator[Finding]:
    if study.teacher is not None:
        return
    for i, source in enumerate(study.problems.sources):
        if isinstance(source, MiniatureProblems) or source.solution is not None:
            continue
        for arm in study.arms:
            if isinstance(arm, SftArm):
                problem = f"arm `{arm.name}` learns solutions, and there are none"
                yield Finding(
                    f"problems.sources[{i}].solution", problem, "name the field with the worked solution, or a teacher"
                )
