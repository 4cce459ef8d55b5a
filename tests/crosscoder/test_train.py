"""Fitting: known features are found and rightly attributed; interruptions leave no trace."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.activations.joined import join
from rlgen.activations.store import group_parts
from rlgen.crosscoder import train, trainer
from rlgen.crosscoder.model import Crosscoder
from rlgen.errors import StudyError
from rlgen.study.sections import Crosscoder as Section
from rlgen.study.stages import FitSettings
from tests.crosscoder.world import World, make_world


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def stores(world: World, tmp_path_factory: Any) -> list[Path]:
    return world.stores(tmp_path_factory.mktemp("activations"))


def chosen(**change: Any) -> FitSettings:
    usual = {"models": ["base", "rl"], "features": 48, "k": 2, "batch_size": 512, "lr": 5e-3, "epochs": 4}
    return FitSettings(crosscoder=Section(**usual | change), layer=1, outlier_norm=10)


def nrn(crosscoder: Crosscoder) -> Tensor:
    base, arm = (crosscoder.decoder_rows(slot).detach().abs().sum(dim=-1) for slot in (0, 1))
    return arm / (base + arm)


def matched(world: World, crosscoder: Crosscoder) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of every true feature: the highest cosine of a found one's decoder with it, and that one's NRN."""
    found_FI = torch.cat([crosscoder.decoder_rows(slot).detach() for slot in (0, 1)], dim=-1)
    true_GI = torch.from_numpy(np.concatenate(list(world.directions), axis=-1))
    cosine_GF = torch.nn.functional.normalize(true_GI, dim=-1) @ torch.nn.functional.normalize(found_FI, dim=-1).T
    best = cosine_GF.max(dim=-1)
    return best.values.numpy(), nrn(crosscoder)[best.indices].numpy()


@pytest.mark.parametrize("sparsity", ["batch_topk", "topk", "jumprelu"])
def test_known_features_are_found_and_attributed(
    world: World, stores: list[Path], tmp_path: Path, sparsity: str
) -> None:
    train.fit(chosen(sparsity=sparsity, l0_weight=5.0), stores=stores, out=tmp_path / "base-rl")
    cosine, found = matched(world, Crosscoder.from_pretrained(tmp_path / "base-rl"))
    assert cosine.mean() >= 0.95
    assert (np.abs(found - world.nrn) < 0.15).mean() >= 0.95
    log = pd.read_parquet(tmp_path / "base-rl" / "training.parquet")
    enough = 0.8 if sparsity == "topk" else 0.9  # many tokens have more than k features
    assert log.fve_base.iloc[-1] > enough
    assert log.fve_rl.iloc[-1] > enough
    assert log.l0.iloc[-1] <= 2.2
    assert log.tokens.iloc[-1] == 4 * 40_000


def test_l1_calls_weakly_shared_features_exclusive_and_batch_topk_does_not(tmp_path: Path) -> None:
    """2504.02922: a norm that costs much and gains little is shrunk away."""
    world = make_world(weak=6)
    stores = world.stores(tmp_path)
    nrn_of = {}
    for sparsity in ("relu_l1", "batch_topk"):
        train.fit(chosen(sparsity=sparsity, l1=2.0), stores=stores, out=tmp_path / sparsity)
        cosine, nrn_of[sparsity] = matched(world, Crosscoder.from_pretrained(tmp_path / sparsity))
        assert cosine.mean() >= 0.95
    classes = {name: np.digitize(values, [0.05, 0.95]) for name, values in nrn_of.items()}
    true = np.digitize(world.nrn, [0.05, 0.95])
    assert (classes["batch_topk"] == true).mean() >= 0.95
    assert np.abs(nrn_of["batch_topk"] - world.nrn)[:6].mean() < 0.03
    assert (nrn_of["relu_l1"][:6] > nrn_of["batch_topk"][:6] + 0.02).all()


def test_dedicated_features_are_their_models_alone(world: World, stores: list[Path], tmp_path: Path) -> None:
    train.fit(chosen(dedicated={"base": 8, "rl": 10}), stores=stores, out=tmp_path / "base-rl")
    crosscoder = Crosscoder.from_pretrained(tmp_path / "base-rl")
    for weight in (crosscoder.W_enc, crosscoder.W_dec):
        norm_FM = weight.detach().norm(dim=-1)
        assert (norm_FM[:30] > 0).all()
        assert norm_FM[30:38, 1].eq(0).all()
        assert norm_FM[38:, 0].eq(0).all()
        assert (norm_FM[30:38, 0] > 0).all()
        assert (norm_FM[38:, 1] > 0).all()
    cosine, found = matched(world, crosscoder)
    assert cosine.mean() >= 0.95
    assert (np.abs(found - world.nrn) < 0.15).mean() >= 0.95


def test_the_same_seed_gives_the_same_bits(stores: list[Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        train.fit(chosen(epochs=0.5, aux_weight=0.1), stores=stores, out=tmp_path / name)
    for file in ("model.safetensors", "training.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_crosscoder_knows_which_norms_it_was_fitted_on(world: World, stores: list[Path], tmp_path: Path) -> None:
    train.fit(chosen(epochs=0.1), stores=stores, out=tmp_path / "base-rl")
    medians = np.median(np.linalg.norm(world.acts, axis=-1), axis=-1)
    limits = Crosscoder.from_pretrained(tmp_path / "base-rl").limit_M
    assert limits.tolist() == pytest.approx((10 * medians).tolist(), rel=0.02)


def test_base_against_itself_finds_no_difference(stores: list[Path], tmp_path: Path) -> None:
    train.fit(chosen(models=["base", "base"], delta_weight=1.0), stores=stores[:1], out=tmp_path / "null")
    found = nrn(Crosscoder.from_pretrained(tmp_path / "null"))
    assert ((found > 0.4) & (found < 0.6)).all()
    log = pd.read_parquet(tmp_path / "null" / "training.parquet")
    assert {"fve_base", "fve_base#2"} <= set(log.columns)
    assert not [column for column in log.columns if column.startswith("delta_fve")]


def test_l1_learns_too(stores: list[Path], tmp_path: Path) -> None:
    train.fit(chosen(sparsity="relu_l1", l1=0.3), stores=stores, out=tmp_path / "l1")
    log = pd.read_parquet(tmp_path / "l1" / "training.parquet")
    assert log.fve_base.iloc[-1] > 0.9
    assert log.l0.iloc[-1] < 8
    assert log.sparsity.iloc[-1] > 0


def test_the_delta_loss_explains_more_of_the_difference(tmp_path: Path) -> None:
    stores = make_world(20_000, exclusive=2, shared=60, rate=0.06).stores(tmp_path)
    found = {}
    for weight in (0.0, 1.0):
        settings = chosen(features=48, k=3, epochs=3, delta_weight=weight)
        train.fit(settings, stores=stores, out=tmp_path / str(weight))
        found[weight] = pd.read_parquet(tmp_path / str(weight) / "training.parquet").delta_fve_rl.iloc[-5:].mean()
    assert found[1.0] > found[0.0] + 0.02


@pytest.mark.parametrize("sparsity", ["batch_topk", "relu_l1", "topk", "jumprelu"])
def test_an_interrupted_fit_ends_with_the_same_bytes(
    stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sparsity: str
) -> None:
    settings = chosen(sparsity=sparsity, epochs=1.3, delta_weight=0.5)
    train.fit(settings, stores=stores, out=tmp_path / "undisturbed")
    monkeypatch.setattr(train, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(train, "_SAVE_SHARE", 1e9)
    step, stops = trainer.Trainer.step, [40, 41, 90]

    def dies(self: trainer.Trainer, acts_BMD: Tensor) -> Any:
        if stops and self.loader.step == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        return step(self, acts_BMD)

    monkeypatch.setattr(trainer.Trainer, "step", dies)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            train.fit(settings, stores=stores, out=tmp_path / "disturbed")
    train.fit(settings, stores=stores, out=tmp_path / "disturbed")
    for name in ("model.safetensors", "training.parquet", "config.json"):
        assert (tmp_path / "disturbed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def test_dead_features_are_revived(stores: list[Path]) -> None:
    joined = join(group_parts(stores, ["base", "rl"]))
    alive = {}
    for weight in (0.0, 0.25):
        fitted = trainer.Trainer(chosen(aux_weight=weight, epochs=3), joined)
        with torch.no_grad():
            fitted.crosscoder.b_enc[:24] = -0.5  # never among the selected on their own
        for acts_BMD in fitted.loader:
            fitted.step(acts_BMD)
        alive[weight] = int((fitted.silent_F < 2048).sum())
    assert alive[0.25] > alive[0.0]


def test_an_exploding_loss_stops_with_its_remedy(stores: list[Path], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"crosscoders.wild.lr: the loss is (inf|nan) at step"):
        train.fit(chosen(lr=1e12), stores=stores, out=tmp_path / "wild")


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [trainer.schedule(step, 100, warmup=0.1, decay=0.2) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([1 - 0.05 * i for i in range(20)])
    assert [trainer.schedule(step, 3, 0, 0) for step in range(3)] == [1.0] * 3
