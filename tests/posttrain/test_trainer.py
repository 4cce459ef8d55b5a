"""What the trained arms and the base share."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOConfig

from rlgen.data.problems import make_problems
from rlgen.errors import StudyError
from rlgen.models import load_model, load_tokenizer
from rlgen.posttrain.arms import in_order
from rlgen.posttrain.grpo import grpo, rollout_arguments
from rlgen.posttrain.monitors import Monitors
from rlgen.posttrain.pretrain import pretrain
from rlgen.posttrain.sft import sft
from rlgen.posttrain.trainer import _last_state, cast
from rlgen.stage import write_json
from rlgen.study.sections import GrpoArm, MiniatureProblems, PretrainedBase, Problems, Rollouts, SftArm
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
        train_sft(tiny, problems, tmp_path / "arm", lr=1e12)


def test_a_diverging_base_names_its_own_learning_rate(tmp_path: Path) -> None:
    base = PretrainedBase(
        method="pretrain", steps=20, batch_size=4, hidden_size=16, intermediate_size=16, layers=1, heads=2, lr=1e12
    )
    with pytest.raises(StudyError, match=r"pretrain: .* is \w+ at step .* learning rate \(base\.lr\)"):
        pretrain(PretrainSettings(base=base), out=tmp_path / "base")


def test_a_solution_that_is_too_long_names_its_row(tiny: Path, problems: Path, tmp_path: Path) -> None:
    arm = SftArm(name="sft", method="sft", max_length=20, **USUAL)
    with pytest.raises(
        StudyError,
        match=r"problem `max-\d+` and its solution have \d+ tokens.*arms\[sft\]\.max_length.*max_prompt_tokens",
    ):
        sft(SftSettings(arm=arm), base=tiny, problems=problems, out=tmp_path / "arm")


def test_a_prompt_that_leaves_no_room_names_its_row(tiny: Path, problems: Path, tmp_path: Path) -> None:
    arm = GrpoArm(name="rl", method="grpo", generations=2, max_completion_length=120, **USUAL)
    with pytest.raises(
        StudyError, match=r"problem `max-\d+` has \d+ tokens.*exceeds the model's 128.*max_prompt_tokens"
    ):
        grpo(GrpoSettings(arm=arm), base=tiny, problems=problems, out=tmp_path / "arm")


def test_a_tokenizer_without_pad_and_end_token_is_refused(tiny: Path, problems: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "tiny")
    file = tmp_path / "tiny" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in settings.items() if k not in ("pad_token", "eos_token")}))
    with pytest.raises(StudyError, match=r"neither a pad nor an end token.*tokenizer_config\.json"):
        train_sft(tmp_path / "tiny", problems, tmp_path / "arm")


def test_a_tokenizer_without_pad_token_pads_with_its_end_token(tiny: Path, problems: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "tiny")
    file = tmp_path / "tiny" / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "pad_token"}))
    train_sft(tmp_path / "tiny", problems, tmp_path / "arm")
    assert (tmp_path / "arm" / "model.safetensors").is_file()


@pytest.mark.parametrize("missing", ["vllm", "deepspeed", "wandb"])
def test_what_is_not_installed_is_asked_for_by_name(
    missing: str, tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlgen.posttrain.grpo.join", lambda alone: None)  # the tests' own process joins no group
    for module in ("grpo", "deepspeed", "monitors"):
        monkeypatch.setattr(f"rlgen.posttrain.{module}.find_spec", lambda name: None if name == missing else name)
    own = {"vllm": {"rollouts": Rollouts(engine="vllm")}, "deepspeed": {"zero": 2}, "wandb": {}}[missing]
    arm = GrpoArm(name="rl", method="grpo", generations=2, max_completion_length=4, **USUAL, **own)
    monitors = Monitors(["wandb"], tmp_path / "monitors") if missing == "wandb" else Monitors()
    with pytest.raises(StudyError, match=rf"not installed; `pip install [^`]*{missing}"):
        grpo(GrpoSettings(arm=arm), base=tiny, problems=problems, out=tmp_path / "arm", monitors=monitors)


def test_rollouts_by_vllm_are_as_the_arm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlgen.posttrain.grpo.find_spec", lambda name: name)

    def arguments(**rollouts: Any) -> dict[str, Any]:
        return rollout_arguments(GrpoArm(name="rl", method="grpo", rollouts=Rollouts(**rollouts)), longest=100)

    assert arguments(engine="transformers") == {"use_vllm": False}
    assert arguments() == {"use_vllm": torch.cuda.is_available()}
    assert arguments(engine="vllm", gpu_memory=0.4, tensor_parallel=2) == {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": 0.4,
        "vllm_tensor_parallel_size": 2,
        "vllm_max_model_length": 100 + 16384,
    }
    server = arguments(server="http://node7:8000")
    assert server == {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": "http://node7:8000"}
    known = {field.name for field in dataclasses.fields(GRPOConfig)}
    assert server.keys() | arguments(engine="vllm").keys() <= known


def test_the_rows_of_every_step_are_a_stretch_of_the_problems() -> None:
    arm = SftArm(name="sft", method="sft", batch_size=4, epochs=1.5)
    rows = [{"row": index} for index in range(6)]
    assert [row["row"] for row in in_order(rows, arm)] == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    rl = GrpoArm(name="rl", method="grpo", batch_size=16, generations=4, epochs=1.0)
    assert [row["row"] for row in in_order(rows, rl)] == [0, 1, 2, 3, 4, 5, 0, 1]


def test_an_arm_is_stored_in_the_precision_of_its_base(tiny: Path, problems: Path, tmp_path: Path) -> None:
    load_tokenizer(tiny).save_pretrained(tmp_path / "base")
    load_model(tiny, dtype="bfloat16").save_pretrained(tmp_path / "base")
    train_sft(tmp_path / "base", problems, tmp_path / "arm")
    weights = load_file(tmp_path / "arm" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert load_model(tmp_path / "arm").dtype == torch.bfloat16


def test_tied_weights_stay_tied_in_another_precision() -> None:
    weight = torch.ones(2, 2)
    found = cast({"a": weight, "b": weight, "c": torch.ones(2, 2)}, torch.bfloat16)
    assert found["a"] is found["b"]
    assert found["c"] is not found["a"]
    assert {w.dtype for w in found.values()} == {torch.bfloat16}


def test_a_state_of_more_processes_is_not_gone_on_with(tmp_path: Path) -> None:
    assert _last_state(tmp_path, "arms[sft]") is None
    for step, processes in ((5, 1), (20, 1)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        write_json(tmp_path / f"checkpoint-{step}" / "complete", {"processes": processes})
    (tmp_path / "checkpoint-30").mkdir()
    assert _last_state(tmp_path, "arms[sft]") == str(tmp_path / "checkpoint-20")
    write_json(tmp_path / "checkpoint-30" / "complete", {"processes": 8})
    with pytest.raises(StudyError, match=r"arms\[sft\]: .* of 8 processes, and these are 1; go on with as many"):
        _last_state(tmp_path, "arms[sft]")
