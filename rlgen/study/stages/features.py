"""Settings of the stages from the activation stores to the interventions."""

from __future__ import annotations

from rlgen.study.sections import (
    Activations,
    Amplification,
    Attribution,
    Crosscoder,
    Edit,
    Evaluation,
    Interventions,
    Localisation,
    Verifier,
)
from rlgen.study.stages.base import StageSettings, verifiers_of, without_engine
from rlgen.study.study import BASE, Study


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
            evaluation=without_engine(study.evaluation),
            verifiers=verifiers_of(study, [task for task in study.all_tasks if task.name in measured]),
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
