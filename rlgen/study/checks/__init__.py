"""What one section's types cannot say: whether the parts of a study fit together, and what they name is there."""

from __future__ import annotations

from rlgen.study.checks.causal import check_causal
from rlgen.study.checks.contents import check_contents
from rlgen.study.checks.crosscoders import check_crosscoders
from rlgen.study.checks.data import check_data
from rlgen.study.checks.finding import Finding
from rlgen.study.checks.functions import check_forms, check_functions, files_of_functions
from rlgen.study.checks.ground import check_ground, local_paths
from rlgen.study.checks.models import check_models
from rlgen.study.checks.notes import check_notes
from rlgen.study.checks.problems import check_problems
from rlgen.study.checks.running import check_resources
from rlgen.study.study import Study

__all__ = ["Finding", "check", "check_notes", "looked_at"]


def check(study: Study) -> list[Finding]:
    """Check whether a study can be run.

    Args:
        study: Settings that each have a right type.

    Returns:
        What is wrong with them: how they fit together, or else what lies in the files and modules that they name.
        Empty if the study can be run.
    """
    if found := list(check_ground(study)):
        return found
    found = [
        *check_models(study),
        *check_problems(study),
        *check_data(study),
        *check_crosscoders(study),
        *check_causal(study),
        *check_forms(study),
        *check_resources(study),
    ]
    return found or [*check_contents(study), *check_functions(study)]


def looked_at(study: Study) -> int:
    """Return how many files and folders the checks of a study look at: data, models, modules of functions."""
    return sum(path.exists() for _, path in local_paths(study)) + len(files_of_functions(study))
