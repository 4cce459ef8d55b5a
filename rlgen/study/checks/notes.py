"""Settings that are allowed but weak. `rlgen config check` prints a note for each; nothing fails."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rlgen.study.checks.finding import Finding
from rlgen.study.sections import ExistingArm
from rlgen.study.study import BASE, Study

FEWEST_DRAWS = 19
"""With fewer random draws, an effect beyond all of them still has p > 0.05, so there is no verdict."""


def check_notes(study: Study) -> Iterator[Finding]:
    """Yield settings that are allowed but weak."""
    if study.localisation is not None:
        yield from _tests(study)
    yield from _tracking(study)
    yield from _samples(study)
    yield from _place(study)


def _tests(study: Study) -> Iterator[Finding]:
    draws, permutations = study.interventions.draws, study.localisation.permutations if study.localisation else 0
    remedy = f"use {FEWEST_DRAWS} or more for a test at the 5% level"
    if draws < FEWEST_DRAWS:
        problem = f"no verdict can come from {draws} matched sets: the smallest p is {1 / (1 + draws):.2f}"
        yield Finding("interventions.draws", problem, remedy)
    if permutations < FEWEST_DRAWS:
        problem = f"the smallest p of {permutations} permutations is {1 / (1 + permutations):.2f}"
        yield Finding("localisation.permutations", problem, remedy)


def _tracking(study: Study) -> Iterator[Finding]:
    for i, name in enumerate(study.tracking.crosscoders if study.tracking else []):
        arm = next(model for model in study.crosscoders[name].models if model != BASE)
        if not study.earlier_checkpoints(arm):
            kind = "list its checkpoints" if isinstance(study.arm(arm), ExistingArm) else "ask for more checkpoints"
            problem = f"arm `{arm}` has no checkpoints before the finished one"
            yield Finding(f"tracking.crosscoders[{i}]", problem, f"{kind}, or leave the crosscoder out")


def _samples(study: Study) -> Iterator[Finding]:
    if study.evaluation.temperature == 0 and study.evaluation.samples > 1:
        problem = f"at temperature 0, all {study.evaluation.samples} samples of an item are the same"
        yield Finding("evaluation.samples", problem, "use 1, or give a temperature")


def _place(study: Study) -> Iterator[Finding]:
    root = study.results / study.study
    there = next((folder for folder in (root, *root.parents) if folder.exists()), root)
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("results", f"you cannot write in {there.absolute()}", "take another folder before you run it")
