"""What the trained arms and the base share."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from rlgen.data.problems import make_problems
from rlgen.errors import StudyError
from rlgen.posttrain.grpo import grpo
from rlgen.posttrain.pretrain import pretrain
from rlgen.posttrain.sft import sft
from rlgen.study.sections import GrpoArm, MiniatureProblems, PretrainedBase, Problems, SftArm
from rlgen.study.stages import GrpoSettings, PretrainSettings, ProblemsSettings, SftSettings
from tests.evaluation.tiny import make_tiny

USUAL = {"batch_size": 4, "micro_batch_size": 4, "checkpoints": 1, "schedule": "constant", "warmup": 0.5}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("problems") / "problems"
    source = MiniatureProblems(source="miniature", task="max", items=16)
    make_problems(ProblemsSettings(problems=Problems(sources=[source])), out=out)
    return out


def train_sft(tiny: Path, problems: Path, out: Path, lr: float = 1e-3) -> None:
    arm = SftArm(name="sft", method="sft", lr=lr, epochs=1, **USUAL)
    sft(SftSettings(arm=arm), base=tiny, problems=problems, out=out)


def train_grpo(tiny: Path, problems: Path, out: Path) -> None:
    arm = GrpoArm(name="rl", method="grpo", lr=1e-3, epochs=0.5, generations=2, max_completion_length=4, **USUAL)
    grpo(GrpoSettings(arm=arm), base=tiny, problems=problems, out=out)


@pytest.mark.parametrize("train", [train_sft, train_grpo])
def test_a_constant_rate_is_warmed_up_too(
    train: Callable[[Path, Path, Path], None], tiny: Path, problems: Path, tmp_path: Path
) -> None:
    train(tiny, problems, tmp_path / "arm")
    curves = pd.read_parquet(tmp_path / "arm" / "curves.parquet")
    assert curves["learning_rate"].tolist() == pytest.approx([0, 0.5e-3, 1e-3, 1e-3])


def test_a_diverging_arm_names_its_own_learning_rate(tiny: Path, problems: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"sft: (loss|grad_norm) is \w+ at step .* learning rate \(arms\[sft\]\.lr\)"):
        train_sft(tiny, problems, tmp_path / "arm", lr=1e38)


def test_a_diverging_base_names_its_own_learning_rate(tmp_path: Path) -> None:
    base = PretrainedBase(
        method="pretrain", steps=20, batch_size=4, hidden_size=16, intermediate_size=16, layers=1, heads=2, lr=1e38
    )
    with pytest.raises(StudyError, match=r"pretrain: .* is \w+ at step .* learning rate \(base\.lr\)"):
        pretrain(PretrainSettings(base=base), out=tmp_path / "base")
