"""Just the settings that each stage reads.

A rule's `params` is the canonical JSON of one of these, so that a change reruns the stages that read it and
what is downstream, and nothing else. Values left at their default stay out of the JSON: a release that adds
a setting reruns nobody's week of training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from rlgen.data.benchmarks import load_benchmark
from rlgen.errors import StudyError
from rlgen.study.sections import (
    Activations,
    Amplification,
    AnyModel,
    Attribution,
    Base,
    BenchmarkTask,
    Corpus,
    Crosscoder,
    Edit,
    Evaluation,
    ExistingArm,
    ExistingBase,
    GrpoArm,
    Interventions,
    Localisation,
    MiniatureTask,
    PretrainedBase,
    Problems,
    Report,
    Section,
    SftArm,
    Task,
    Teacher,
    Verifier,
)
from rlgen.study.sections.common import files_of
from rlgen.study.study import BASE, Study
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


class PretrainSettings(StageSettings):
    base: PretrainedBase

    @classmethod
    def of(cls, study: Study) -> PretrainSettings:
        return cls(seed=study.seed, base=study.base)


class AdoptSettings(StageSettings):
    """An existing model taken into the study: the base, the teacher or an arm."""

    model: ExistingBase | ExistingArm

    @classmethod
    def of(cls, study: Study, model: str) -> AdoptSettings:
        found = study.existing(model)
        if isinstance(found, Teacher):  # how it samples is not read
            found = ExistingBase(method="existing", **found.model_dump(include=set(AnyModel.model_fields)))
        return cls(model=found)


class ProblemsSettings(StageSettings):
    problems: Problems
    verifier: Verifier = DEFAULT
    """Of the filter `unverifiable`."""

    @classmethod
    def of(cls, study: Study) -> ProblemsSettings:
        problems = study.problems.model_copy(update={"verifier": None})
        if study.teacher:  # the solutions that are limited are its own
            problems = problems.model_copy(update={"max_solution_tokens": None})
        unread = problems.unverifiable == "keep"
        return cls(seed=study.seed, problems=problems, verifier=DEFAULT if unread else study.problems_verifier)


class TeacherSettings(StageSettings):
    teacher: Teacher
    max_solution_tokens: int | None = None
    """Of the base's tokenizer; no limit if None."""
    verifier: Verifier = DEFAULT
    """Of its solutions."""

    @classmethod
    def of(cls, study: Study) -> TeacherSettings:
        limit = study.problems.max_solution_tokens
        verifier = study.problems_verifier
        return cls(seed=study.seed, teacher=study.teacher, max_solution_tokens=limit, verifier=verifier)


class TaskSettings(StageSettings):
    task: Task
    evaluation: Evaluation
    verifier: Verifier = DEFAULT
    """Named in the harness's file; of generated answers only."""

    @classmethod
    def of(cls, study: Study, task: str) -> TaskSettings:
        found = next(t for t in study.all_tasks if t.name == task)
        verifier = _verifiers(study, [found]).get(task, DEFAULT)
        found = found.model_copy(update={"verifier": None})
        return cls(seed=study.seed, task=found, evaluation=_live(study.evaluation), verifier=verifier)


class CorpusSettings(StageSettings):
    corpus: Corpus
    base: Base

    @classmethod
    def of(cls, study: Study) -> CorpusSettings:
        return cls(seed=study.seed, corpus=study.corpus, base=study.base)


class SftSettings(StageSettings):
    arm: SftArm

    @classmethod
    def of(cls, study: Study, arm: str) -> SftSettings:
        return cls(seed=study.seed, arm=study.arm(arm))


class GrpoSettings(StageSettings):
    arm: GrpoArm
    verifier: Verifier = DEFAULT
    """Of the reward `final_answer`; other rewards do not read it."""

    @classmethod
    def of(cls, study: Study, arm: str) -> GrpoSettings:
        found = study.arm(arm)
        assert isinstance(found, GrpoArm)
        verifier = study.problems_verifier if found.reward == GrpoArm.model_fields["reward"].default else DEFAULT
        return cls(seed=study.seed, arm=found, verifier=verifier)


class PerturbSettings(StageSettings):
    """The noise null: base with weight noise as large as an arm's change."""

    @classmethod
    def of(cls, study: Study) -> PerturbSettings:
        return cls(seed=study.seed)


class EvaluateSettings(StageSettings):
    evaluation: Evaluation
    verifiers: dict[str, Verifier] = {}
    """By task, of generated answers; `math` where a task is not named."""

    @classmethod
    def of(cls, study: Study, model: str = BASE) -> EvaluateSettings:
        verifiers = _verifiers(study, study.tasks_of(model))
        return cls(seed=study.seed, evaluation=study.evaluation, verifiers=verifiers)


class DumpSettings(StageSettings):
    activations: Activations
    part: int
    tokens: int | None = None
    """Only the corpus' first tokens (checkpoints); all of them if None."""

    @classmethod
    def of(cls, study: Study, model: str, part: int) -> DumpSettings:
        tokens = study.tracking.tokens if "@" in model and study.tracking else None
        unread = {name: Activations.model_fields[name].default for name in ("outlier_norm", "keep")}  # not by a dump
        if "@" in model:
            unread["parts"] = 1  # a checkpoint's store is one part
        return cls(activations=study.activations.model_copy(update=unread), part=part, tokens=tokens)


class FitSettings(StageSettings):
    crosscoder: Crosscoder
    layer: int
    outlier_norm: float

    @classmethod
    def of(cls, study: Study, crosscoder: str) -> FitSettings:
        return cls(
            seed=study.seed,
            crosscoder=study.fits[crosscoder],
            layer=study.layer(crosscoder),
            outlier_norm=study.activations.outlier_norm,
        )


class AttributeSettings(StageSettings):
    attribution: Attribution

    @classmethod
    def of(cls, study: Study) -> AttributeSettings:
        return cls(attribution=study.attribution)


class TrackSettings(StageSettings):
    tokens: int
    top: int
    ridge: float
    arm: str
    outlier_norm: float

    @classmethod
    def of(cls, study: Study, crosscoder: str) -> TrackSettings:
        assert study.tracking is not None
        arm = next(m for m in study.crosscoders[crosscoder].models if m != BASE)
        tracking = study.tracking
        return cls(
            seed=study.seed,
            tokens=tracking.tokens,
            top=tracking.top,
            ridge=tracking.ridge,
            arm=arm,
            outlier_norm=study.activations.outlier_norm,
        )


class LocaliseSettings(StageSettings):
    localisation: Localisation
    transfer: list[str]
    """Names of the transfer tasks."""

    @classmethod
    def of(cls, study: Study, fit: str) -> LocaliseSettings:
        assert study.localisation is not None
        own = {"crosscoder": fit, "arm": study.localised[fit], "compare": [], "oracle": False}
        return cls(
            seed=study.seed,
            localisation=study.localisation.model_copy(update=own),
            transfer=study.task_groups["transfer"],
        )


class InterveneSettings(StageSettings):
    """One of the two edits; the other's settings are left out, so that they do not rerun it."""

    edit: Amplification | Edit
    items: int | None = None
    draws: int
    directions: int
    samples: int
    bootstrap: int
    mode: str | None = None
    portion_tokens: int = 131072
    evaluation: Evaluation
    verifiers: dict[str, Verifier] = {}
    """By task, of generated answers; `math` where a task is not named."""
    groups: dict[str, list[str]]
    """Task names by group."""

    @classmethod
    def of(cls, study: Study, edit: str) -> InterveneSettings:
        found: Interventions = study.interventions
        measured = {name for names in study.measured_groups.values() for name in names}
        return cls(
            seed=study.seed,
            edit=getattr(found, edit),
            items=found.items,
            draws=found.draws,
            directions=found.directions,
            samples=found.samples,
            bootstrap=found.bootstrap,
            mode=found.mode,
            portion_tokens=found.portion_tokens,
            evaluation=_live(study.evaluation),
            verifiers=_verifiers(study, [task for task in study.all_tasks if task.name in measured]),
            groups=study.measured_groups,
        )


class CompareSettings(InterveneSettings):
    """As of the study's main edit, without the controls, which the comparison does not read."""

    draws: int = 0
    directions: int = 0

    @classmethod
    def of_main(cls, study: Study) -> CompareSettings:
        assert study.main_edit is not None
        found = InterveneSettings.of(study, study.main_edit)
        unread = {"draws": 0, "directions": 0, "edit": found.edit.model_copy(update={"sweep": []})}
        return cls(**dict(found.model_copy(update=unread)))


def _verifiers(study: Study, tasks: Sequence[Task]) -> dict[str, str]:
    """The verifiers of tasks with generated answers, but for the default."""
    named = {task.name: study.task_verifier(task) for task in tasks if _generates(task)}
    return {task: verifier for task, verifier in named.items() if verifier != DEFAULT}


def _generates(task: Task) -> bool:
    """Whether a task has generated answers."""
    if isinstance(task, BenchmarkTask):
        return load_benchmark(task.benchmark_name).format == "generate"
    return isinstance(task, MiniatureTask) or task.format == "generate"


def _live(evaluation: Evaluation) -> Evaluation:
    """Without the engine: only the stage `evaluate` asks for it."""
    return evaluation.model_copy(update={"engine": Evaluation.model_fields["engine"].default})


class SummarySettings(StageSettings):
    """Names only: the numbers come from the artifacts."""

    study: str
    groups: dict[str, list[str]]
    models: list[str]
    arms: dict[str, str]
    """Method by arm."""
    crosscoders: dict[str, list[str]]
    """Models by crosscoder."""
    variants: dict[str, list[str]] = {}
    """Names of all fits by crosscoder, where it has more than its own."""
    problems: bool = True
    """Whether the study has training problems."""
    taught: bool = False
    """Whether a teacher solved the problems."""
    stores: dict[str, int]
    """Parts of the activation stores by model, tracked checkpoints among them."""
    localised: list[str] = []
    """The fits whose features are localised, the study's own first."""
    edits: dict[str, list[str]] = {}
    """Kinds of edits by fit."""
    oracle: bool = False
    """Whether the scores are compared with an oracle."""
    tracked: list[str] = []
    """Crosscoders whose features are tracked over checkpoints."""

    @classmethod
    def of(cls, study: Study) -> SummarySettings:
        return cls(
            seed=study.seed,
            study=study.study,
            groups=study.task_groups,
            models=study.models,
            arms={arm.name: arm.method for arm in study.arms},
            crosscoders={name: c.models for name, c in {**study.crosscoders, **study.null_crosscoders}.items()},
            variants={name: fits for name in study.crosscoders if len(fits := list(study.variants(name))) > 1},
            problems=bool(study.problems.sources),
            taught=study.teacher is not None,
            stores=_stores(study),
            localised=list(study.localised),
            edits={fit: study.edits_of(fit) for fit in study.localised},
            oracle=study.localisation is not None and study.localisation.oracle,
            tracked=study.tracking.crosscoders if study.tracking else [],
        )


def _stores(study: Study) -> dict[str, int]:
    tracked = study.tracking.crosscoders if study.tracking else []
    joined = [model for crosscoder in study.fits.values() for model in crosscoder.models]
    arms = [model for name in tracked for model in study.crosscoders[name].models if model != BASE]
    checkpoints = [checkpoint for arm in arms for checkpoint in study.earlier_checkpoints(arm)]
    return {**dict.fromkeys(joined, study.activations.parts), **dict.fromkeys(checkpoints, 1)}


class ReportSettings(StageSettings):
    report: Report

    @classmethod
    def of(cls, study: Study) -> ReportSettings:
        return cls(report=study.report)


def schema() -> dict[str, Any]:
    """The JSON schema of a study file."""
    return Study.model_json_schema()
