"""Settings of the summary and the report, and the JSON schema of a study file."""

from __future__ import annotations

from typing import Any

from rlgen.study.sections import Report
from rlgen.study.stages.base import StageSettings
from rlgen.study.study import BASE, Study


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
