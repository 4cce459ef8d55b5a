"""Diagnostics of crosscoders whose numbers are known without them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from rlgen.activations.dump import dump
from rlgen.activations.store import StoreReader
from rlgen.crosscoder.diagnostics import diagnose
from rlgen.crosscoder.explained import Explained
from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig
from rlgen.data.miniature import build_tokenizer
from rlgen.study.sections import Activations
from rlgen.study.sections import Crosscoder as Section
from rlgen.study.stages import DumpSettings, FitSettings
from tests.data.corpora import write_corpus

D = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """Two tiny models, a corpus, and the models' stores on it."""
    folder: Path = tmp_path_factory.mktemp("study")
    random = np.random.default_rng(0)
    tokens = random.integers(3, 40, (24, 32)).astype(np.int32)
    write_corpus(folder / "corpus", tokens, np.zeros_like(tokens), np.arange(32)[None].repeat(24, axis=0) > 0)
    for seed, name in enumerate(("base", "rl")):
        torch.manual_seed(seed)
        config = Qwen3Config(
            vocab_size=64,
            hidden_size=D,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            initializer_range=0.5,
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
        settings = DumpSettings(activations=Activations(layers=[2], dtype="float32"), part=0)
        dump(settings, model=folder / name, corpus=folder / "corpus", out=folder / "stores" / name / "part-000.zarr")
    return folder


def run(folder: Path, crosscoder: Crosscoder, out: Path) -> dict[str, Any]:
    crosscoder.save_pretrained(out / "crosscoder")
    models = crosscoder.config.models
    section = Section(models=models, features=crosscoder.config.features, sparsity="relu_l1", batch_size=64)
    diagnose(
        FitSettings(crosscoder=section, layer=2, outlier_norm=1e9),
        crosscoder=out / "crosscoder",
        models=[folder / model for model in dict.fromkeys(models)],
        stores=[folder / "stores" / model / "part-000.zarr" for model in models],
        corpus=folder / "corpus",
        out=out / "diagnostics",
    )
    found: dict[str, Any] = json.loads((out / "diagnostics" / "diagnostics.json").read_text())
    return found


def perfect(models: list[str]) -> Crosscoder:
    """Features are the positive and the negative part of every coordinate of every model: x^ = x."""
    count = len(models)
    crosscoder = Crosscoder(CrosscoderConfig(models, D, 2 * count * D, "relu_l1", 2, layer=2))
    eye_FMD = torch.eye(count * D).view(-1, count, D)
    with torch.no_grad():
        crosscoder.W_dec.copy_(torch.cat([eye_FMD, -eye_FMD]))
        crosscoder.W_enc.copy_(crosscoder.W_dec)
        crosscoder.scale.copy_(torch.tensor([2.0, 0.5])[:count])
    return crosscoder


def test_a_perfect_crosscoder_explains_everything(folder: Path, tmp_path: Path) -> None:
    found = run(folder, perfect(["base", "rl"]), tmp_path)
    assert found["fve"] == pytest.approx({"base": 1.0, "rl": 1.0})
    assert found["delta_fve"] == pytest.approx({"rl": 1.0})
    assert found["l0"] == pytest.approx(2 * D)  # the positive or the negative part
    assert found["dead_fraction"] == 0
    assert found["tokens"] == 24 * 31
    for numbers in found["cross_entropy"].values():
        assert numbers["spliced"] == pytest.approx(numbers["clean"], abs=1e-4)
        assert numbers["recovered"] == pytest.approx(1.0, abs=1e-2)
    assert sum(found["firing_rate_histogram"]["counts"]) == 4 * D
    assert len(found["firing_rate_histogram"]["edges"]) == len(found["firing_rate_histogram"]["counts"]) + 1

    table = pd.read_parquet(tmp_path / "diagnostics" / "features.parquet")
    reader = StoreReader([folder / "stores" / "base" / "part-000.zarr"])
    x_N = 2.0 * reader.read(0, reader.tokens_total, 2)[:, 3]
    assert table.firing_rate[3] == pytest.approx((x_N > 0).mean())
    assert table.mean_code[3] == pytest.approx(x_N[x_N > 0].mean(), rel=1e-5)
    assert table.max_code[3] == pytest.approx(x_N.max(), rel=1e-5)


def test_a_crosscoder_that_says_nothing_recovers_nothing(folder: Path, tmp_path: Path) -> None:
    crosscoder = perfect(["base", "rl"])
    with torch.no_grad():
        for slot, model in enumerate(("base", "rl")):
            reader = StoreReader([folder / "stores" / model / "part-000.zarr"])
            crosscoder.mean[slot] = torch.from_numpy(reader.read(0, reader.tokens_total, 2).mean(axis=0))
        crosscoder.W_enc.zero_()
        crosscoder.b_enc.fill_(-1.0)
    found = run(folder, crosscoder, tmp_path)
    assert found["fve"] == pytest.approx({"base": 0.0, "rl": 0.0}, abs=1e-4)
    assert found["delta_fve"] == pytest.approx({"rl": 0.0}, abs=1e-4)
    assert found["l0"] == 0
    assert found["dead_fraction"] == 1
    assert [numbers["recovered"] for numbers in found["cross_entropy"].values()] == pytest.approx([0, 0], abs=1e-4)


def test_outliers_stay_as_they_are_in_the_model(folder: Path, tmp_path: Path) -> None:
    crosscoder = perfect(["base", "rl"])
    with torch.no_grad():
        crosscoder.W_enc.zero_()
        crosscoder.limit_M[1] = 0.0  # an outlier in one model is one in all
    for numbers in run(folder, crosscoder, tmp_path)["cross_entropy"].values():
        assert numbers["spliced"] == numbers["mean_ablated"] == numbers["clean"]


def test_clean_cross_entropy_is_the_models_own(folder: Path, tmp_path: Path) -> None:
    found = run(folder, perfect(["base", "rl"]), tmp_path)
    ids = torch.from_numpy(np.load(folder / "corpus" / "tokens.npy").astype(np.int64))
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(folder / "rl")(input_ids=ids, labels=ids).loss
    assert found["cross_entropy"]["rl"]["clean"] == pytest.approx(float(loss), rel=1e-5)


def test_one_model_twice_has_two_slots_and_no_difference(folder: Path, tmp_path: Path) -> None:
    found = run(folder, perfect(["base", "base"]), tmp_path)
    assert set(found["fve"]) == set(found["cross_entropy"]) == {"base", "base#2"}
    assert found["delta_fve"] == {}


def test_explained_is_the_definition() -> None:
    torch.manual_seed(0)
    crosscoder = Crosscoder(CrosscoderConfig(["rl", "base"], 5, 7, "relu_l1", 2, layer=1))
    crosscoder.scale.copy_(torch.tensor([0.5, 3.0]))
    x_NMD, error_NMD = torch.randn(90, 2, 5) + 1, 0.3 * torch.randn(90, 2, 5)
    explained = Explained(crosscoder)
    for x_BMD, error_BMD in zip(x_NMD.split(40), error_NMD.split(40), strict=True):
        explained.add(x_BMD, error_BMD)

    def fraction(values: torch.Tensor, errors: torch.Tensor) -> float:
        return float(1 - errors.square().sum() / (values - values.mean(dim=0)).square().sum())

    expected = {name: fraction(x_NMD[:, m], error_NMD[:, m]) for m, name in enumerate(("rl", "base"))}
    assert explained.fve() == pytest.approx(expected, rel=1e-5)
    raw, raw_error = x_NMD / crosscoder.scale[:, None], error_NMD / crosscoder.scale[:, None]
    delta = fraction(raw[:, 0] - raw[:, 1], raw_error[:, 0] - raw_error[:, 1])
    assert explained.delta_fve() == pytest.approx({"rl": delta}, rel=1e-5)
