"""Adapters that PEFT saved: merged into the base as models of their own."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from safetensors import safe_open
from transformers import AutoConfig, GPT2Config, Qwen2Config, Qwen3MoeConfig

from rlgen.data.tasks import make_task
from rlgen.evaluation.evaluate import evaluate
from rlgen.models import load_model, load_tokenizer, locate
from rlgen.posttrain import adapters
from rlgen.posttrain.adopt import adopt
from rlgen.stage import read_manifest
from rlgen.study.sections import Evaluation, ExistingArm, ExistingBase, MiniatureTask
from rlgen.study.stages import AdoptSettings, EvaluateSettings, TaskSettings
from tests.evaluation.tiny import make_tiny
from tests.posttrain.adapters import (
    adapted_logits,
    differences,
    logits,
    lora_of,
    make_adapter,
    of_family,
    taken,
)
from tests.workflow.study_run import contents

CAUSAL = {"task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("lora"))


def test_an_adapter_becomes_a_model_with_its_logits(base: Path, lora: Path, tmp_path: Path) -> None:
    arm = taken(lora, base, tmp_path / "arm")
    assert locate(arm).path == str(arm), "a model of its own"
    torch.testing.assert_close(logits(load_model(arm)), adapted_logits(base, lora), atol=1e-4, rtol=0)
    assert (logits(load_model(arm)) - logits(load_model(base))).abs().max() > 0.5
    assert load_tokenizer(arm).get_vocab() == load_tokenizer(base).get_vocab()
    note = json.loads((arm / "adapter.json").read_text())
    assert (note["adapter"], note["rank"], note["dtype"]) == (str(lora.resolve()), 4, "float32")
    assert note["digest"] == read_manifest(arm)["inputs"][str(lora)]["digest"]
    assert differences(arm)["adapter_to_base"] > 0.5
    assert differences(arm)["merged_to_adapter"] < 1e-4
    assert not (arm / "adapter_config.json").exists()


KINDS = {
    "rank-stabilised": lora_of(use_rslora=True),
    "dora": lora_of(use_dora=True),
    "some layers": lora_of(layers_to_transform=[1]),
    "patterns": lora_of(rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 3}),
    "output embedding trained": lora_of(modules_to_save=["lm_head"]),
    "input embedding trained": lora_of(modules_to_save=["embed_tokens"]),
    "norms trained": lora_of(modules_to_save=["norm"]),
    "embedding adapted": lora_of(target_modules=["embed_tokens", "lm_head"]),
    "some tokens trained": lora_of(trainable_token_indices=[3, 4]),
    "one parameter adapted": lora_of(target_modules=[], target_parameters=["q_proj.weight"]),
    "gaussian start": lora_of(init_lora_weights="gaussian"),
    "start from the base's singular vectors": lora_of(init_lora_weights="pissa"),
    "orthonormal start": lora_of(init_lora_weights="olora"),
    "adalora": AdaLoraConfig(total_step=10, target_modules=["q_proj"], **CAUSAL),
    "loha": LoHaConfig(target_modules=["q_proj"], **CAUSAL),
    "lokr": LoKrConfig(target_modules=["q_proj"], **CAUSAL),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **CAUSAL),
    "no task": LoraConfig(target_modules=["q_proj"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_merged_right(kind: str, base: Path, tmp_path: Path) -> None:
    folder = make_adapter(base, tmp_path / "adapter", KINDS[kind])
    arm = taken(folder, base, tmp_path / "arm")
    expected = adapted_logits(base, folder)
    torch.testing.assert_close(logits(load_model(arm)), expected, atol=1e-4, rtol=0)
    assert (expected - logits(load_model(base))).abs().max() > 0.05


TIED: dict[str, tuple[PeftConfig, bool]] = {
    "no embedding": (lora_of(), True),
    "biases": (lora_of(bias="all"), True),
    "output embedding trained": (lora_of(modules_to_save=["lm_head"]), False),
    "input embedding trained": (lora_of(modules_to_save=["embed_tokens"]), False),
    "both trained as one": (lora_of(modules_to_save=["embed_tokens"], ensure_weight_tying=True), True),
    "input embedding adapted": (lora_of(target_modules=["embed_tokens"]), False),
    "output embedding adapted": (lora_of(target_modules=["lm_head"]), False),
    "both adapted as one": (lora_of(target_modules=["embed_tokens"], ensure_weight_tying=True), True),
}


@pytest.mark.parametrize("kind", TIED)
def test_tied_embeddings_stay_tied_only_if_they_are_still_equal(kind: str, base: Path, tmp_path: Path) -> None:
    config = Qwen2Config(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    config.num_key_value_heads, config.tie_word_embeddings = 1, True
    tied = of_family(config, base, tmp_path / "tied")
    folder = make_adapter(tied, tmp_path / "adapter", TIED[kind][0])
    arm = taken(folder, tied, tmp_path / "arm")
    torch.testing.assert_close(logits(load_model(arm)), adapted_logits(tied, folder), atol=1e-3, rtol=0)
    assert AutoConfig.from_pretrained(arm).tie_word_embeddings == TIED[kind][1]
    with safe_open(arm / "model.safetensors", "pt") as weights:
        assert ("lm_head.weight" in weights.keys()) == (not TIED[kind][1])  # noqa: SIM118


FAMILIES = {
    "transposed weights": (
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64),
        {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    ),
    "experts": (
        Qwen3MoeConfig(
            **{"hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "num_experts": 4},
            num_experts_per_tok=2,
        ),
        {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"]},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_merged_right(family: str, base: Path, tmp_path: Path) -> None:
    config, settings = FAMILIES[family]
    model = of_family(config, base, tmp_path / "model")
    folder = make_adapter(model, tmp_path / "adapter", **settings)
    arm = taken(folder, model, tmp_path / "arm")
    torch.testing.assert_close(logits(load_model(arm)), adapted_logits(model, folder), atol=1e-3, rtol=0)
    assert differences(arm)["adapter_to_base"] > 0.05


def test_the_base_s_precision_is_kept_and_its_rounding_reported(base: Path, tmp_path: Path) -> None:
    network = load_model(base).bfloat16()
    network.save_pretrained(tmp_path / "half")
    load_tokenizer(base).save_pretrained(tmp_path / "half")
    folder = make_adapter(tmp_path / "half", tmp_path / "adapter", lora_of(target_modules=["q_proj"]))
    arm = load_model(taken(folder, tmp_path / "half", tmp_path / "arm")).state_dict()
    for name, weight in network.state_dict().items():
        assert arm[name].dtype == torch.bfloat16
        assert torch.equal(arm[name], weight) == ("q_proj" not in name), name
    found = differences(tmp_path / "arm")
    assert found["merged_to_adapter"] < 1e-4 < found["stored_to_adapter"] < found["adapter_to_base"]
    whole = load_model(tmp_path / "arm", dtype="float32")
    assert (logits(whole) - adapted_logits(tmp_path / "half", folder)).abs().max() < 2 * found["stored_to_adapter"]


def test_rounding_that_hides_the_adapter_is_told(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_model(base).bfloat16().save_pretrained(tmp_path / "half")
    load_tokenizer(base).save_pretrained(tmp_path / "half")
    folder = make_adapter(tmp_path / "half", tmp_path / "adapter", lora_of(), strength=2e-4)
    with caplog.at_level(logging.WARNING, "rlgen"):
        taken(folder, tmp_path / "half", tmp_path / "arm")
    assert "rounding the merged weights to bfloat16 changes the logits" in caplog.text


def test_an_adapter_that_changes_nothing_is_told(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_adapter(base, tmp_path / "adapter", strength=0.0)
    with caplog.at_level(logging.WARNING, "rlgen"):
        arm = taken(folder, base, tmp_path / "arm")
    assert "changes the base's logits by no more than 0" in caplog.text
    assert torch.equal(logits(load_model(arm)), logits(load_model(base)))


def test_the_base_may_be_referred_to(base: Path, lora: Path, tmp_path: Path) -> None:
    adopt(AdoptSettings(model=ExistingBase(method="existing", path=str(base))), out=tmp_path / "base")
    arm = taken(lora, tmp_path / "base", tmp_path / "arm")
    torch.testing.assert_close(logits(load_model(arm)), adapted_logits(base, lora), atol=1e-4, rtol=0)


def test_an_adapter_of_a_real_model_is_merged_and_evaluated(real_model: Path, tmp_path: Path) -> None:
    arm = taken(make_adapter(real_model, tmp_path / "adapter"), real_model, tmp_path / "arm")
    expected = adapted_logits(real_model, tmp_path / "adapter")
    torch.testing.assert_close(logits(load_model(arm)), expected, atol=1e-3, rtol=0)
    evaluation = Evaluation(samples=1, max_new_tokens=4)
    task = MiniatureTask(name="cnt", source="miniature", items=4)
    make_task(TaskSettings(task=task, evaluation=evaluation), out=tmp_path / "cnt")
    evaluate(EvaluateSettings(evaluation=evaluation), model=arm, tasks=[tmp_path / "cnt"], out=tmp_path / "answers")
    assert len(pd.read_parquet(tmp_path / "answers" / "items.parquet")) == 4


def test_checkpoints_may_be_adapters_too(base: Path, lora: Path, tmp_path: Path) -> None:
    early = make_adapter(base, tmp_path / "early", seed=1)
    arm = taken(lora, base, tmp_path / "arm", checkpoints=[str(early), str(base)])
    for folder, path in ((arm, lora), (arm / "checkpoints" / "1", early)):
        torch.testing.assert_close(logits(load_model(folder)), adapted_logits(base, path), atol=1e-4, rtol=0)
    assert locate(arm / "checkpoints" / "2").path == str(base.resolve())
    mixed = taken(base, base, tmp_path / "mixed", checkpoints=[str(lora)])
    assert locate(mixed).path == str(base.resolve())
    torch.testing.assert_close(
        logits(load_model(mixed / "checkpoints" / "1")), adapted_logits(base, lora), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("killed", ["save_model", "write_json"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_killed_and_run_again_it_ends_with_the_same_bytes(
    killed: str, after: int, base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = [str(make_adapter(base, tmp_path / f"early-{seed}", seed=seed)) for seed in (1, 2)]
    expected = contents(taken(lora, base, tmp_path / "undisturbed", checkpoints=checkpoints), "")
    original, calls = getattr(adapters, killed), []

    def dies(*arguments: Any) -> None:
        calls.append(arguments)
        if killed == "save_model":
            original(*arguments)
        if len(calls) == after:
            raise KeyboardInterrupt
        if killed == "write_json":
            original(*arguments)

    monkeypatch.setattr(adapters, killed, dies)
    with pytest.raises(KeyboardInterrupt):
        taken(lora, base, tmp_path / "arm", checkpoints=checkpoints)
    monkeypatch.setattr(adapters, killed, original)
    done: list[Path] = []
    merge = adapters._merge
    monkeypatch.setattr(adapters, "_merge", lambda *given: done.append(given[0].folder) or merge(*given))
    assert contents(taken(lora, base, tmp_path / "arm", checkpoints=checkpoints), "") == expected
    assert len(done) == 4 - after, "what was complete is not merged again"
    assert not list((tmp_path / "arm").rglob("*.tmp"))


def test_an_adapter_on_the_hub_is_the_commit_s(base: Path, lora: Path, tmp_path: Path) -> None:
    commits = ["a" * 40, "b" * 40]
    place = tmp_path / "hub" / "models--owner--lora"
    for commit, branch in zip(commits, ("main", "step1"), strict=True):
        shutil.copytree(lora, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / branch).write_text(commit)
    arm = ExistingArm(name="arm", method="existing", path="owner/lora", checkpoints=["owner/lora@step1"])
    words = [str(Path(sys.executable).with_name("rlgen")), "adopt", "--settings", AdoptSettings(model=arm).canonical()]
    words += ["--base", str(base), "--out", str(tmp_path / "arm")]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    for folder, commit in zip((tmp_path / "arm", tmp_path / "arm/checkpoints/1"), commits, strict=True):
        note = json.loads((folder / "adapter.json").read_text())
        assert (note["adapter"], note["commit"], note["digest"]) == ("owner/lora", commit, None)
        torch.testing.assert_close(logits(load_model(folder)), adapted_logits(base, lora), atol=1e-4, rtol=0)
