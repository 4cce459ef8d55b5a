"""Settings of the stages that make and evaluate models, and of the data that they read."""

from __future__ import annotations

from rlgen.study.sections import (
    AnyModel,
    Base,
    Corpus,
    Evaluation,
    ExistingArm,
    ExistingBase,
    GrpoArm,
    PretrainedBase,
    Problems,
    SftArm,
    Task,
    Teacher,
    Verifier,
)
from rlgen.study.stages.base import StageSettings, verifiers_of, without_engine
from rlgen.study.study import BASE, Study
from rlgen.verifiers import DEFAULT


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
        verifier = verifiers_of(study, [found]).get(task, DEFAULT)
        found = found.model_copy(update={"verifier": None})
        return cls(seed=study.seed, task=found, evaluation=without_engine(study.evaluation), verifier=verifier)


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
        verifiers = verifiers_of(study, study.tasks_of(model))
        return cls(seed=study.seed, evaluation=study.evaluation, verifiers=verifiers)
