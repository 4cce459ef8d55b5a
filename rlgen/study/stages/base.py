"""What the settings of all stages share, and the parts of a study that several of them read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError

from rlgen.data.benchmarks import load_benchmark
from rlgen.errors import StudyError
from rlgen.study.sections import BenchmarkTask, Evaluation, MiniatureTask, Section, Task
from rlgen.study.sections.common import files_of
from rlgen.study.study import Study
from rlgen.verifiers import DEFAULT


class StageSettings(Section):
    """Base of what one stage reads."""

    seed: int = 0
    """The study's seed."""

    @property
    def verifier_files(self) -> list[str]:
        """Files under the working directory of the user's own verifiers that the stage calls: inputs of its rule."""
        names = [getattr(self, "verifier", DEFAULT), *getattr(self, "verifiers", {}).values()]
        return sorted({file for name in names if ":" in name for file in files_of(name)})

    def canonical(self) -> str:
        """The settings as JSON with sorted keys and without defaults: what reruns are decided by."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True, separators=(",", ":"))


Settings = TypeVar("Settings", bound=StageSettings)


def parse_settings(kind: type[Settings], text: str) -> Settings:
    """The inverse of `canonical`. Raises StudyError if the text is not such settings."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise StudyError(f"--settings: not a {kind.__name__}: {error}") from None


def verifiers_of(study: Study, tasks: Sequence[Task]) -> dict[str, str]:
    """The verifiers of tasks with generated answers, but for the default."""
    named = {task.name: study.task_verifier(task) for task in tasks if _generates(task)}
    return {task: verifier for task, verifier in named.items() if verifier != DEFAULT}


def _generates(task: Task) -> bool:
    """Whether a task has generated answers."""
    if isinstance(task, BenchmarkTask):
        return load_benchmark(task.benchmark_name).format == "generate"
    return isinstance(task, MiniatureTask) or task.format == "generate"


def without_engine(evaluation: Evaluation) -> Evaluation:
    """Without the engine: only the stage `evaluate` asks for it."""
    return evaluation.model_copy(update={"engine": Evaluation.model_fields["engine"].default})
