"""What GRPO learns from: rewards that are refused, abstain or never differ, in a real run of a tiny model."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from rlgen.data.problems import make_problems
from rlgen.errors import StudyError
from rlgen.models import load_model
from rlgen.posttrain.gradients import learnt_nothing, zero_gradients
from rlgen.posttrain.grpo import grpo
from rlgen.posttrain.sft import sft
from rlgen.stage import read_manifest
from rlgen.study.sections import GrpoArm, Lora, MiniatureProblems, Problems, SftArm
from rlgen.study.stages import GrpoSettings, ProblemsSettings, SftSettings
from tests.evaluation.tiny import make_tiny
from tests.posttrain.ranks import run

STEPS = 12


def constant(completions: list[str], **_: Any) -> list[float]:
    return [0.25 for _ in completions]


def odd_length(completions: list[str], **_: Any) -> list[float | None]:
    """A reward that untrained models earn now and then."""
    return [float(len(text) % 2) for text in completions]


def abstains_by_group(completions: list[str], prompts: list[str], **_: Any) -> list[float | None]:
    """Judges one completion of every prompt, and of the first prompt none."""
    seen: set[str] = {prompts[0]}
    return [None if p in seen else seen.add(p) or float(len(c)) for p, c in zip(prompts, completions, strict=True)]  # type: ignore[func-returns-value]


def abstains_at_odd(completions: list[str], **_: Any) -> list[float | None]:
    return [None if len(text) % 2 else float(len(text)) for text in completions]


def late(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
    """Tells completions apart from the eleventh step on."""
    return [float(len(text) % 2) * (trainer_state.global_step >= 10) for text in completions]


def broken(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
    """Cannot judge the second completion from the third step on."""
    at = trainer_state.global_step >= 2
    return [float("nan") if at and place == 1 else float(place % 2) for place, _ in enumerate(completions)]


def silent_on_second_rank(completions: list[str], **_: Any) -> list[float | None]:
    import os

    return [None if os.environ.get("RANK") == "1" else float(len(text) % 2) for text in completions]


def fails_on_second_rank(completions: list[str], **_: Any) -> list[float]:
    import os

    return [1 / (os.environ.get("RANK") != "1") for _ in completions]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("problems") / "problems"
    source = MiniatureProblems(source="miniature", task="max", items=2 * STEPS)
    make_problems(ProblemsSettings(problems=Problems(sources=[source])), out=out)
    return out


def train(reward: str, tiny: Path, problems: Path, out: Path, **settings: Any) -> None:
    own = {"batch_size": 8, "generations": 4, "max_completion_length": 8, "checkpoints": 1, "lr": 1e-3, **settings}
    arm = GrpoArm(name="rl", method="grpo", reward=f"{__name__}:{reward}", **own)
    grpo(GrpoSettings(arm=arm), base=tiny, problems=problems, out=out)


def moved(arm: Path, base: Path) -> bool:
    trained, start = (dict(load_model(path).named_parameters()) for path in (arm, base))
    assert all(bool(torch.isfinite(weight).all()) for weight in trained.values())
    return any(not torch.equal(trained[name], start[name]) for name in trained)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_rewards_that_never_differ_are_warned_of(
    lora: Lora | None, tiny: Path, problems: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train("constant", tiny, problems, tmp_path / "rl", lora=lora)
    (said,) = [text for text in warnings(caplog) if "gradient" in text]
    assert said.startswith("arms[rl]: the gradient was exactly zero in each of its first 10 of 12 steps")
    assert "rewards had mean 0.25, standard deviation 0;" in said
    assert "every completion of a prompt earns the same reward" in said
    found = read_manifest(tmp_path / "rl")["gradient"]
    assert found == {**found, "steps": 12, "zero": 12, "first_zero": 12, "nothing_at_first": True, "reward": 0.25}
    assert (pd.read_parquet(tmp_path / "rl" / "curves.parquet")["grad_norm"] == 0).all()
    assert not moved(tmp_path / "rl", tiny)


def test_a_run_that_is_shorter_is_warned_of_at_its_end(
    tiny: Path, problems: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train("constant", tiny, problems, tmp_path / "rl", epochs=0.25)
    assert any("each of its first 3 of 3 steps" in text for text in warnings(caplog))


def test_what_begins_to_learn_later_is_warned_of_all_the_same(
    tiny: Path, problems: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train("late", tiny, problems, tmp_path / "rl")
    assert any("each of its first 10 of 12 steps" in text for text in warnings(caplog))
    assert moved(tmp_path / "rl", tiny)


def test_rewards_that_differ_are_not_warned_of(
    tiny: Path, problems: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train("odd_length", tiny, problems, tmp_path / "rl")
    assert not [text for text in warnings(caplog) if "gradient" in text]
    assert read_manifest(tmp_path / "rl")["gradient"]["zero"] < 12


def test_completions_that_are_not_judged_teach_nothing_and_others_do(
    tiny: Path, problems: Path, tmp_path: Path
) -> None:
    train("abstains_at_odd", tiny, problems, tmp_path / "rl")
    assert moved(tmp_path / "rl", tiny)
    train("abstains_by_group", tiny, problems, tmp_path / "single")
    assert not moved(tmp_path / "single", tiny), "a completion alone is not better than its group"
    curves = pd.read_parquet(tmp_path / "single" / "curves.parquet")
    assert curves[["loss", "grad_norm"]].notna().all(axis=None)


def test_a_value_is_refused_at_its_step(tiny: Path, problems: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"broken`, step 3: for completion 2 of 8 it returned nan"):
        train("broken", tiny, problems, tmp_path / "rl")
    assert not (tmp_path / "rl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_two_processes_are_warned_of_and_refused_alike(zero: int, tiny: Path, problems: Path, tmp_path: Path) -> None:
    here = partial(train, tiny=tiny, problems=problems, zero=zero)
    assert run(partial(here, "constant"), tmp_path / "constant", ranks=2)
    found = read_manifest(tmp_path / "constant")["gradient"]
    assert (found["steps"], found["zero"], found["nothing_at_first"]) == (12, 12, True)
    with pytest.raises(
        AssertionError, match=r"fails_on_second_rank`, step 1: raised ZeroDivisionError.*process 1 of 2"
    ):
        run(partial(here, "fails_on_second_rank"), tmp_path / "fails", ranks=2)
    if zero == 0:
        assert run(partial(here, "silent_on_second_rank"), tmp_path / "half", ranks=2)


def test_what_a_zero_gradient_is_counted_by() -> None:
    norms = [0.0] * 10 + [1.0, 0.0, float("nan")]
    rows: list[dict[str, Any]] = [{"step": step, "grad_norm": norm} for step, norm in enumerate(norms)]
    found = zero_gradients([*rows, {"step": 13, "train_loss": 0.0}])
    assert found == {"steps": 13, "zero": 11, "first_zero": 10, "nothing_at_first": True}
    assert not zero_gradients(rows[1:])["nothing_at_first"], "nine"
    assert not zero_gradients([])["nothing_at_first"]
    assert "no token that the loss is taken on" in learnt_nothing("arms[sft]", found)


def test_a_tiny_gradient_is_none_that_is_zero() -> None:
    assert not zero_gradients([{"grad_norm": 1e-30}] * 10)["nothing_at_first"]


def test_fine_tuning_counts_too(tiny: Path, problems: Path, tmp_path: Path) -> None:
    arm = SftArm(name="sft", method="sft", lr=1e-3, batch_size=8, checkpoints=1, max_length=64)
    sft(SftSettings(arm=arm), base=tiny, problems=problems, out=tmp_path / "sft")
    found = read_manifest(tmp_path / "sft")["gradient"]
    assert found == {"steps": 3, "zero": 0, "first_zero": 0, "nothing_at_first": False}
