"""What one section's types cannot say: whether the parts of a study fit together."""

from __future__ import annotations

from rlgen.study.checks.causal import check_causal
from rlgen.study.checks.crosscoders import check_crosscoders
from rlgen.study.checks.data import check_data
from rlgen.study.checks.finding import Finding
from rlgen.study.checks.models import check_models
from rlgen.study.checks.problems import check_problems
from rlgen.study.checks.running import check_resources
from rlgen.study.study import Study

__all__ = ["Finding", "check"]


def check(study: Study) -> list[Finding]:
    """Everything about the study's settings that cannot work together. Empty if it can be run."""
    return [
        *check_models(study),
        *check_problems(study),
        *check_data(study),
        *check_crosscoders(study),
        *check_causal(study),
        *check_resources(study),
    ]
