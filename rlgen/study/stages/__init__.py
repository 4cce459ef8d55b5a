"""Just the settings that each stage reads.

A rule's `params` is the canonical JSON of one of these, so that a change reruns the stages that read it and
what is downstream, and nothing else. Values left at their default stay out of the JSON: a release that adds
a setting reruns nobody's week of training.
"""

from __future__ import annotations

from rlgen.study.stages.base import Settings, StageSettings, parse_settings
from rlgen.study.stages.features import (
    AttributeSettings,
    CompareSettings,
    DumpSettings,
    FitSettings,
    InterveneSettings,
    LocaliseSettings,
    TrackSettings,
)
from rlgen.study.stages.models import (
    AdoptSettings,
    CorpusSettings,
    EvaluateSettings,
    GrpoSettings,
    PerturbSettings,
    PretrainSettings,
    ProblemsSettings,
    SftSettings,
    TaskSettings,
    TeacherSettings,
)
from rlgen.study.stages.summary import ReportSettings, SummarySettings, schema

__all__ = [
    "AdoptSettings",
    "AttributeSettings",
    "CompareSettings",
    "CorpusSettings",
    "DumpSettings",
    "EvaluateSettings",
    "FitSettings",
    "GrpoSettings",
    "InterveneSettings",
    "LocaliseSettings",
    "PerturbSettings",
    "PretrainSettings",
    "ProblemsSettings",
    "ReportSettings",
    "Settings",
    "SftSettings",
    "StageSettings",
    "SummarySettings",
    "TaskSettings",
    "TeacherSettings",
    "TrackSettings",
    "parse_settings",
    "schema",
]
