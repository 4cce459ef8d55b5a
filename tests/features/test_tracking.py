"""Decoder refit, swap readout and what tracking makes of them, where all is known."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from rlgen.errors import StudyError
from rlgen.features.checkpoints import Block, Blocks
from rlgen.features.refit import CodeSums, Refit, TargetSums, halved
from rlgen.features.tracking import track
from rlgen.study.stages import TrackSettings
from tests.activations.synthetic import write_store
from tests.features.planted import planted, sparse_codes

TOKENS, FEATURES, D = 2000, 6, 16


def sums_of(codes_BF: Tensor, acts_BD: Tensor) -> tuple[CodeSums, TargetSums]:
    """The sums over two unequal blocks, every other token in the second half."""
    half_B = torch.arange(len(codes_BF)) % 2
    blocks = [slice(0, 700), slice(700, None)]
    parts = [halved(codes_BF[b], half_B[b]) for b in blocks]
    target = TargetSums.empty(codes_BF.shape[1], acts_BD.shape[1])
    for part, b in zip(parts, blocks, strict=True):
        target.add(part, acts_BD[b], half_B[b])
    return CodeSums.over(parts, codes_BF.shape[1]), target


def test_refit_recovers_a_known_decoder() -> None:
    codes_BF = sparse_codes(TOKENS, FEATURES)
    rows_FD = torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(1))
    acts_BD = codes_BF @ rows_FD + 5.0  # the bias is free
    codes, target = sums_of(codes_BF, acts_BD)
    scale = (D / (acts_BD - acts_BD.mean(dim=0)).square().sum(dim=1).mean()).sqrt()
    every = np.arange(FEATURES)
    for halves in ([0, 1], [0], [1]):
        found = Refit(codes, halves, every, ridge=0.0).rows(target).cpu()
        np.testing.assert_allclose(found, rows_FD * scale, rtol=0.1 if len(halves) < 2 else 2e-4, atol=2e-3)
    shrunk = Refit(codes, [0, 1], every, ridge=1.0).rows(target).cpu()
    assert shrunk.abs().sum() < 0.7 * found.abs().sum()


def test_refit_is_least_squares_on_the_tokens_themselves() -> None:
    """Some of the features alone, on activations that no decoder explains, against numpy's own solver."""
    codes_BF = sparse_codes(TOKENS, FEATURES)
    acts_BD = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(3))
    codes, target = sums_of(codes_BF, acts_BD)
    chosen = np.array([0, 2, 5])
    for halves, tokens in (([0, 1], slice(None)), ([0], slice(0, None, 2)), ([1], slice(1, None, 2))):
        f_BF, x_BD = codes_BF[tokens, chosen].double().numpy(), acts_BD[tokens].double().numpy()
        f_BF, x_BD = f_BF - f_BF.mean(axis=0), x_BD - x_BD.mean(axis=0)
        expected = np.linalg.lstsq(f_BF, x_BD)[0] * np.sqrt(D / (x_BD**2).sum(axis=1).mean())
        found = Refit(codes, halves, chosen, ridge=0.0).rows(target).cpu()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_feature_that_never_fires_needs_a_ridge() -> None:
    codes_BF = sparse_codes(TOKENS, 2) * torch.tensor([1, 0])
    codes, target = sums_of(codes_BF, codes_BF @ torch.ones(2, D))
    with pytest.raises(StudyError, match=r"tracking\.ridge"):
        Refit(codes, [0, 1], np.arange(2), ridge=0.0)
    found = Refit(codes, [0, 1], np.arange(2), ridge=1e-3).rows(target).cpu()
    assert (found[0] > 0).all()
    assert (found[1] == 0).all()


@pytest.fixture
def settings() -> TrackSettings:
    return TrackSettings(tokens=TOKENS, top=2, ridge=1e-3, arm="rl", outlier_norm=100.0)


@pytest.fixture
def rows() -> dict[str, Tensor]:
    """Decoders: the arm and its second checkpoint have strong features 0 and 1, the first has 2 and 3."""
    base_FD = torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(2))
    early, late = torch.ones(FEATURES, 1), torch.ones(FEATURES, 1)
    early[2:4], late[:2] = 8.0, 8.0
    return {"base": base_FD, "rl@1": base_FD * early, "rl@2": base_FD * late, "rl": base_FD * late}


def write_stores(root: Path, rows: dict[str, Tensor]) -> list[Path]:
    codes_BF = sparse_codes(TOKENS, FEATURES)
    found = []
    for name, rows_FD in rows.items():
        (root / name).mkdir(parents=True)
        acts_NLD = (codes_BF @ rows_FD)[:, None].numpy().astype(np.float32)
        found.append(write_store(root / name / "part-000.zarr", name, acts_NLD))
    return found


def test_planted_features_are_tracked(tmp_path: Path, settings: TrackSettings, rows: dict[str, Tensor]) -> None:
    planted(["base", "rl"], torch.stack([rows["base"], rows["rl"]])).save_pretrained(tmp_path / "crosscoder")
    stores = write_stores(tmp_path / "activations", rows)
    track(settings, crosscoder=tmp_path / "crosscoder", stores=stores[::-1], out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "tracking.json").read_text())
    assert found["checkpoints"] == ["rl@1", "rl@2", "rl"]
    assert [set(found["top_features"][name]) for name in found["checkpoints"]] == [{2, 3}, {0, 1}, {0, 1}]
    assert found["overlap"] == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    assert [found["null"][key] for key in ("mean", "low", "high", "mean_high")] == [1, 1, 1, 1]
    assert found["features"] == FEATURES
    for block in (found, found["swap_readout"]):
        for key in ("overlap", "overlap_across_halves"):
            low, value, high = (np.array(block[name]) for name in (f"{key}_low", key, f"{key}_high"))
            assert value.shape == (3, 3)
            assert ((low <= value) & (value <= high)).all()


def swapped(root: Path, settings: TrackSettings) -> tuple[dict[str, Any], pd.DataFrame]:
    """Tracking of an arm that in turn gains and loses codes, by a crosscoder whose encoder reads the arm's slot alone.

    Of base's features, 0 fades at once, 1 at the end; 2 comes with the first checkpoint, 3 with the last; 4 grows by
    and by, 5 stays as it is.
    """
    model = planted(["base", "rl"], torch.eye(FEATURES, D).expand(2, -1, -1))
    with torch.no_grad():
        model.W_enc[:, 1] = model.W_enc[:, 0]
        model.W_enc[:, 0] = 0
    model.save_pretrained(root / "crosscoder")
    strength = {
        "base": [1, 1, 0, 0, 1.0, 1],
        "rl@1": [0, 1, 1, 0, 2.0, 1],
        "rl@2": [0, 1, 1, 0, 3.0, 1],
        "rl": [0, 0, 1, 4, 4.0, 1],
    }
    rows = {name: torch.eye(FEATURES, D) * torch.tensor(by_feature)[:, None] for name, by_feature in strength.items()}
    track(settings, crosscoder=root / "crosscoder", stores=write_stores(root / "activations", rows), out=root / "out")
    return json.loads((root / "out" / "tracking.json").read_text()), pd.read_parquet(root / "out" / "features.parquet")


def test_swap_readout_sees_births_growth_and_deaths(tmp_path: Path, settings: TrackSettings) -> None:
    found, table = swapped(tmp_path, settings)
    assert table["born"].fillna("").tolist() == ["", "", "rl@1", "rl", "", ""]
    assert table["died"].fillna("").tolist() == ["rl@1", "rl", "", "", "", ""]
    assert found["born"] == {"rl@1": 1, "rl@2": 0, "rl": 1}
    assert found["died"] == {"rl@1": 1, "rl@2": 0, "rl": 1}
    assert found["stable"] == 2
    code_F = sparse_codes(TOKENS, FEATURES).mean(dim=0).numpy()
    rate_F = (sparse_codes(TOKENS, FEATURES) > 0).double().mean(dim=0).numpy()
    np.testing.assert_allclose(table["mean_code_base"], code_F * [1, 1, 0, 0, 1, 1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table["mean_code_rl"], code_F * [0, 0, 1, 4, 4, 1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table["firing_rate_rl@2"], rate_F * [0, 1, 1, 0, 1, 1])
    np.testing.assert_allclose(table["slope"][[4, 5]], [code_F[4], 0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table["final_share_rl@1"], [np.nan, np.nan, 1, 0, 0.5, 1], atol=1e-6)
    assert table["nrn_rl"].isna().tolist() == [True, True, False, False, False, False]  # the final code has no 0 and 1


def test_swap_readout_ranks_by_the_rise_over_base(tmp_path: Path, settings: TrackSettings) -> None:
    swap = swapped(tmp_path, settings)[0]["swap_readout"]
    assert [set(swap["top_features"][name]) for name in ("rl@1", "rl@2", "rl")] == [{2, 4}, {2, 4}, {3, 4}]
    assert swap["overlap"] == [[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]]
    assert [swap["null"][key] for key in ("mean", "low", "high")] == [1, 1, 1]


def test_base_as_its_own_arm_rises_nowhere(tmp_path: Path, settings: TrackSettings) -> None:
    rows_FD = torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(2))
    planted(["base", "rl"], torch.stack([rows_FD, rows_FD])).save_pretrained(tmp_path / "crosscoder")
    stores = write_stores(tmp_path / "activations", dict.fromkeys(("base", "rl@1", "rl"), rows_FD))
    track(settings, crosscoder=tmp_path / "crosscoder", stores=stores, out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "tracking.json").read_text())
    assert sum(found["born"].values()) == sum(found["died"].values()) == 0
    assert found["stable"] == FEATURES
    assert found["nrn"]["distance_to_final"] == {"rl@1": 0, "rl": 0}
    assert found["nrn"]["quantiles"]["rl@1"]["0.99"] == pytest.approx(0.5)


def test_a_dictionary_that_never_fires_is_told_as_such(tmp_path: Path, settings: TrackSettings) -> None:
    rows_FD = torch.eye(FEATURES, D)
    model = planted(["base", "rl"], torch.stack([rows_FD, rows_FD]))
    with torch.no_grad():
        model.W_enc.zero_()
    model.save_pretrained(tmp_path / "crosscoder")
    stores = write_stores(tmp_path / "activations", dict.fromkeys(("base", "rl"), rows_FD))
    track(settings, crosscoder=tmp_path / "crosscoder", stores=stores, out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "tracking.json").read_text())
    assert found["features"] == found["swap_readout"]["features"] == found["stable"] == 0
    assert found["chance"] is found["swap_readout"]["chance"] is None
    assert found["nrn"]["rank_correlation"] == [[None]]


def test_killed_halfway_the_sums_that_were_made_are_used(
    tmp_path: Path, settings: TrackSettings, rows: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(["base", "rl"], torch.stack([rows["base"], rows["rl"]])).save_pretrained(tmp_path / "crosscoder")
    arguments = {"crosscoder": tmp_path / "crosscoder", "stores": write_stores(tmp_path / "activations", rows)}
    track(settings, **arguments, out=tmp_path / "undisturbed")
    read, seen = Blocks.of, []

    def dies_at_rl(self: Blocks, name: str) -> Iterator[Block]:
        seen.append(name)
        if seen == ["base", "rl@1", "rl@2"]:
            raise KeyboardInterrupt
        return read(self, name)

    monkeypatch.setattr(Blocks, "of", dies_at_rl)
    with pytest.raises(KeyboardInterrupt):
        track(settings, **arguments, out=tmp_path / "killed")
    track(settings, **arguments, out=tmp_path / "killed")
    assert seen == ["base", "rl@1", "rl@2", "rl@2", "rl"]
    for file in ("tracking.json", "features.parquet", "overlap.parquet"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes()


def test_what_cannot_be_tracked_is_refused(tmp_path: Path, settings: TrackSettings, rows: dict[str, Tensor]) -> None:
    planted(["base", "rl"], torch.stack([rows["base"], rows["rl"]])).save_pretrained(tmp_path / "crosscoder")
    stores = write_stores(tmp_path / "activations", rows)
    with pytest.raises(StudyError, match="`base`"):
        track(settings, crosscoder=tmp_path / "crosscoder", stores=stores[1:], out=tmp_path / "a")
    (tmp_path / "other").mkdir()
    other = np.zeros((TOKENS, 1, D), dtype=np.float32)
    tokens = np.full(TOKENS, 7, dtype=np.int32)
    stores[1] = write_store(tmp_path / "other" / "part-000.zarr", "rl@1", other, tokens)
    with pytest.raises(StudyError, match=r"`base` and `rl@1` hold different tokens"):
        track(settings, crosscoder=tmp_path / "crosscoder", stores=stores, out=tmp_path / "b")
    few = settings.model_copy(update={"tokens": 50})
    with pytest.raises(StudyError, match=r"tracking\.tokens"):
        track(few, crosscoder=tmp_path / "crosscoder", stores=[stores[0], *stores[2:]], out=tmp_path / "c")
