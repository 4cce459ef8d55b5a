"""Decoder refit and the overlap of checkpoints, where both are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.errors import StudyError
from rlgen.features.refit import CodeSums, TargetSums, halved, refit
from rlgen.features.tracking import overlaps, top_features, track
from rlgen.study.stages import TrackSettings
from tests.activations.synthetic import write_store
from tests.features.planted import planted, sparse_codes

TOKENS, FEATURES, D = 2000, 6, 16


def test_refit_recovers_a_known_decoder() -> None:
    codes_BF = sparse_codes(TOKENS, FEATURES)
    rows_FD = torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(1))
    acts_BD = codes_BF @ rows_FD + 5.0  # the bias is free
    half_B = torch.arange(TOKENS) % 2
    blocks = [slice(0, 700), slice(700, TOKENS)]
    parts = [halved(codes_BF[b], half_B[b]) for b in blocks]
    codes = CodeSums.over(parts, FEATURES)
    triples = ((part, acts_BD[b], half_B[b]) for part, b in zip(parts, blocks, strict=True))
    target = TargetSums.over(triples, FEATURES, D)
    scale = (D / (acts_BD - acts_BD.mean(dim=0)).square().sum(dim=1).mean()).sqrt()
    for halves in ([0, 1], [0], [1]):
        found = refit(codes, target, halves, np.arange(FEATURES), ridge=0.0)
        np.testing.assert_allclose(found, rows_FD * scale, rtol=0.1 if len(halves) < 2 else 2e-4, atol=2e-3)
    shrunk = refit(codes, target, [0, 1], np.arange(FEATURES), ridge=1.0)
    assert np.abs(shrunk).sum() < 0.7 * np.abs(found).sum()


def test_the_same_sets_overlap_wholly_and_others_do_not() -> None:
    nrn_F = np.array([0.5, 0.9, 0.7, 0.1])
    assert top_features(nrn_F, 2).tolist() == [1, 2]
    np.testing.assert_allclose(overlaps([np.array([1, 2])], [np.array([2, 1]), np.array([1, 3])]), [[1.0, 0.5]])


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
    assert found["null"] == {"mean": 1, "low": 1, "high": 1}
    assert found["features"] == FEATURES


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
