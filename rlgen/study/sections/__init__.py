"""The sections of a study: one pydantic model each. `config.yaml` documents every key by example.

Every attribute's docstring becomes its description in `rlgen config schema`. Nothing here imports torch.
"""

from rlgen.study.sections.causal import Amplification, CodeKind, Edit, Interventions, Localisation, Nulls
from rlgen.study.sections.common import (
    Fraction,
    HubPath,
    LocalPath,
    Name,
    NonNegative,
    Section,
    Seed,
    TokenSet,
    Verifier,
    WorldTask,
)
from rlgen.study.sections.crosscoders import Activations, Attribution, Codec, Crosscoder, CrosscoderEntry, Tracking
from rlgen.study.sections.data import (
    BenchmarkTask,
    Corpus,
    Evaluation,
    HubText,
    JsonlTask,
    JsonlText,
    MiniatureTask,
    MiniatureText,
    ProblemText,
    Task,
    Tasks,
    Text,
)
from rlgen.study.sections.models import (
    AnyArm,
    AnyModel,
    Base,
    Existing,
    ExistingArm,
    ExistingBase,
    PretrainedBase,
)
from rlgen.study.sections.problems import HubProblems, JsonlProblems, MiniatureProblems, Problems, ProblemSource
from rlgen.study.sections.running import Report, Resources
from rlgen.study.sections.teacher import Teacher
from rlgen.study.sections.training import Arm, GrpoArm, Lora, Rollouts, SftArm, TrainedArm

__all__ = [
    "Activations",
    "Amplification",
    "AnyArm",
    "AnyModel",
    "Arm",
    "Attribution",
    "Base",
    "BenchmarkTask",
    "CodeKind",
    "Codec",
    "Corpus",
    "Crosscoder",
    "CrosscoderEntry",
    "Edit",
    "Evaluation",
    "Existing",
    "ExistingArm",
    "ExistingBase",
    "Fraction",
    "GrpoArm",
    "HubPath",
    "HubProblems",
    "HubText",
    "Interventions",
    "JsonlProblems",
    "JsonlTask",
    "JsonlText",
    "LocalPath",
    "Localisation",
    "Lora",
    "MiniatureProblems",
    "MiniatureTask",
    "MiniatureText",
    "Name",
    "NonNegative",
    "Nulls",
    "PretrainedBase",
    "ProblemSource",
    "ProblemText",
    "Problems",
    "Report",
    "Resources",
    "Rollouts",
    "Section",
    "Seed",
    "SftArm",
    "Task",
    "Tasks",
    "Teacher",
    "Text",
    "TokenSet",
    "Tracking",
    "TrainedArm",
    "Verifier",
    "WorldTask",
]
