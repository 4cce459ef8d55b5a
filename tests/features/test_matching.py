"""Features matched between fits whose features are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from rlgen.features import matching
from rlgen.features.attribution import attribute
from rlgen.features.matching import seed_stability
from rlgen.study.sections import Attribution
from rlgen.study.stages import AttributeSettings
from tests.features.planted import planted, write_rates


def rows(features: int, seed: int) -> Tensor:
    return torch.randn(2, features, 64, generator=torch.Generator().manual_seed(seed))


def test_features_in_another_order_are_found_again() -> None:
    rows_MFD, order_F = rows(32, 0), torch.randperm(32)
    shuffled_MFD = 3 * rows_MFD[:, order_F]
    shuffled_MFD[:, 5] = torch.randn(2, 64)  # the feature that was order_F[5] is lost
    found_F, null_F = seed_stability(rows_MFD.transpose(0, 1), [shuffled_MFD.transpose(0, 1)])
    kept_F = np.arange(32) != int(order_F[5])
    np.testing.assert_allclose(found_F[kept_F], 1, atol=1e-5)
    assert found_F[~kept_F].max() < 0.5
    assert null_F.max() < 0.9


def test_unrelated_fits_are_as_alike_as_the_null() -> None:
    """Also where a few directions are strong, in which unrelated features have high cosines."""
    strength_D = 1 / torch.arange(1, 65)
    here, other = (rows(512, seed).transpose(0, 1) * strength_D for seed in (0, 1))
    found_F, null_F = seed_stability(here, [other])
    assert np.median(null_F) > 0.6
    share = float((found_F > np.quantile(null_F, 0.95)).mean())
    assert 0.01 < share < 0.12


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    here, *others = (rows(50, seed).transpose(0, 1) for seed in (0, 1, 2))
    whole_F, _ = seed_stability(here, others)
    monkeypatch.setattr(matching, "_BLOCK", 7)
    np.testing.assert_allclose(seed_stability(here, others)[0], whole_F, atol=1e-6)


def test_the_feature_table_says_how_stable_features_are(tmp_path: Path) -> None:
    rows_MFD = rows(8, 0)
    other_MFD = rows_MFD.clone()
    other_MFD[:, 0] = torch.randn(2, 64)
    for name, decoder in (("a", rows_MFD), ("a.seed=1", other_MFD)):
        planted(["base", "rl"], decoder).save_pretrained(tmp_path / name)
    rates = write_rates(tmp_path / "diagnostics", [0.1] * 7 + [0.0])
    others = write_rates(tmp_path / "diagnostics.seed=1", [0.1] * 6 + [0.0] * 2)
    attribute(
        AttributeSettings(attribution=Attribution()),
        crosscoder=tmp_path / "a",
        diagnostics=rates,
        out=tmp_path / "out",
        replicates=[(tmp_path / "a.seed=1", others)],
    )
    table = pd.read_parquet(tmp_path / "out" / "features.parquet")
    np.testing.assert_allclose(table["seed_stability"][1:6], 1, atol=1e-5)
    assert table["seed_stability"][[0, 6]].max() < 0.6  # another feature there, and one that never fires there
    assert np.isnan(table["seed_stability"][7])
