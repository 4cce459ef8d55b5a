"""Stages' commands that last as long as a test asks, on inputs made here."""

import sys
from pathlib import Path

import numpy as np

from rlgen.data.problems import make_problems
from rlgen.study.sections import Crosscoder, GrpoArm, SftArm
from rlgen.study.stages import FitSettings, GrpoSettings, ProblemsSettings, SftSettings
from tests.activations.synthetic import write_store
from tests.evaluation.tiny import make_tiny

Words = list[str]
RLGEN = [sys.executable, "-m", "rlgen"]


def sft(folder: Path, steps: int) -> Words:
    """SFT of an untrained tiny model."""
    arm = SftArm(name="sft", method="sft", batch_size=4, checkpoints=1, max_length=96)
    return ["sft", *_places(folder, steps * 4), "--settings", SftSettings(arm=arm).canonical()]


def grpo(folder: Path, steps: int) -> Words:
    """GRPO of an untrained tiny model, with two checkpoints."""
    settings = {"batch_size": 32, "generations": 4, "max_completion_length": 12, "checkpoints": 2}
    arm = GrpoArm(name="rl", method="grpo", **settings)
    return ["grpo", *_places(folder, steps * 8), "--settings", GrpoSettings(arm=arm).canonical()]


def fit(folder: Path, epochs: int) -> Words:
    """A crosscoder over two models' random activations."""
    places = [folder / "activations" / model / "part-000.zarr" for model in ("base", "rl")]
    for number, place in enumerate(places):
        if not place.exists():
            acts = np.random.default_rng(number).standard_normal((4096, 1, 64), dtype=np.float32)
            write_store(place, place.parent.name, acts)
    section = Crosscoder(models=["base", "rl"], features=1024, k=16, batch_size=256, lr=1e-3, epochs=epochs)
    settings = FitSettings(crosscoder=section, layer=1, outlier_norm=10).canonical()
    return ["fit", "--settings", settings, *(word for place in places for word in ("--store", str(place)))]


def _places(folder: Path, items: int) -> Words:
    base, problems = folder / "tiny", folder / f"problems-{items}"
    if not base.exists():
        make_tiny(base)
    if not problems.exists():
        sources = [{"source": "miniature", "task": "mod", "items": items}]
        make_problems(ProblemsSettings.model_validate({"problems": {"sources": sources}}), out=problems)
    return ["--base", str(base), "--problems", str(problems)]
