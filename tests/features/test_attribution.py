"""NRN and MAS from hand-made decoders."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from rlgen.features.attribution import attribute, feature_table, mas, nrn, summary, with_l2, with_scaling
from rlgen.study.sections import Attribution
from rlgen.study.stages import AttributeSettings
from tests.features.planted import planted, write_rates

RANGE = (0.4, 0.6)


def test_nrn_is_the_share_of_the_post_trained_decoder() -> None:
    found = nrn(np.array([1.0, 0.0, 3.0, 2.0, 0.0]), np.array([1.0, 5.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(found, [0.5, 1.0, 0.25, 0.0, np.nan])


def test_mas_sums_to_one_and_names_the_share() -> None:
    found = mas(np.array([[1.0, 1.0, 2.0], [0.0, 0.0, 4.0]]))
    np.testing.assert_allclose(found, [[0.25, 0.25, 0.5], [0, 0, 1]])


def test_a_joint_feature_belongs_to_the_model_with_more_than_the_threshold() -> None:
    l1_FM = np.array([[1.0, 1.0, 3.0], [1.0, 1.0, 1.0], [4.0, 1.0, 1.0], [0.0, 0.0, 9.0]])
    slots = ["base", "sft", "rl"]
    table = feature_table(slots, l1_FM, np.array([0.1, 0.1, 0.1, 0.0]), 0.5, RANGE)
    assert table["owner"].tolist()[:3] == ["rl", "base", "base"]
    assert table["owner"].isna().tolist() == [False, False, False, True]
    assert table["specific"].tolist() == [True, False, True, False]
    assert table.loc[3, ["mas_base", "mas_sft", "mas_rl"]].isna().all()
    assert "nrn" not in table
    nowhere_else = pd.DataFrame({f"{nu}_{slot}": np.nan for nu in ("nu_eps", "nu_r") for slot in slots}, index=range(4))
    found = summary(with_scaling(table, nowhere_else, slots), slots, RANGE)
    assert found["specific_features"] == found["confirmed_features"] == {"base": 1, "sft": 0, "rl": 1}


@pytest.mark.parametrize(("nu_eps", "nu_r", "confirmed"), [(0.1, 0.4, 1), (0.3, 0.0, 0), (0.0, 0.6, 0), (-0.3, 0, 0)])
def test_a_specific_feature_that_another_model_has_is_not_confirmed(nu_eps: float, nu_r: float, confirmed: int) -> None:
    slots = ["base", "rl"]
    table = feature_table(slots, np.array([[1.0, 9.0], [1.0, 1.0]]), np.full(2, 0.1), 0.5, RANGE)
    nan = np.nan
    scaling = {"nu_eps_base": [nu_eps, 0], "nu_r_base": [nu_r, 0], "nu_eps_rl": [nan, nan], "nu_r_rl": [nan, nan]}
    found = summary(with_scaling(table, pd.DataFrame(scaling), slots), slots, RANGE)
    assert found["specific_features"]["rl"] == 1
    assert found["confirmed_features"]["rl"] == confirmed


def test_in_a_pair_an_equal_share_is_not_specific() -> None:
    l1_FM = np.array([[1.0, 1.1], [1.0, 9.0], [9.0, 1.0]])
    table = feature_table(["base", "rl"], l1_FM, np.full(3, 0.1), 0.5, RANGE)
    np.testing.assert_allclose(table["nrn"], [1.1 / 2.1, 0.9, 0.1])
    assert table["specific"].tolist() == [False, True, True]
    scaling = pd.DataFrame({f"{nu}_{slot}": [np.nan] * 3 for nu in ("nu_eps", "nu_r") for slot in ("base", "rl")})
    found = summary(with_scaling(table, scaling, ["base", "rl"]), ["base", "rl"], RANGE)
    assert found["nrn"]["outside"] == 2
    assert found["nrn"]["share_outside"] == pytest.approx(2 / 3)
    assert found["nrn"]["quantiles"]["0.5"] == pytest.approx(1.1 / 2.1)


def test_l2_stands_beside_l1_and_decides_nothing() -> None:
    slots = ["base", "rl"]
    l1_FM, l2_FM = np.array([[4.0, 4.0], [1.0, 3.0], [1.0, 9.0]]), np.array([[2.0, 4.0], [1.0, 3.0], [1.0, 9.0]])
    rates = np.array([0.1, 0.1, 0.0])
    by_l1 = feature_table(slots, l1_FM, rates, 0.5, RANGE)
    table = with_l2(by_l1, slots, l2_FM)
    np.testing.assert_allclose(table[["l2_base", "l2_rl"]], l2_FM)
    np.testing.assert_allclose(table[["mas_l2_base", "mas_l2_rl"]], [[1 / 3, 2 / 3], [0.25, 0.75], [np.nan, np.nan]])
    np.testing.assert_allclose(table["nrn_l2"], [2 / 3, 0.75, np.nan])
    pd.testing.assert_frame_equal(table[by_l1.columns], by_l1)
    unscaled = pd.DataFrame({f"{nu}_{slot}": [np.nan] * 3 for nu in ("nu_eps", "nu_r") for slot in slots})
    found = summary(with_scaling(table, unscaled, slots), slots, RANGE)
    assert (found["nrn"]["outside"], found["nrn_l2"]["outside"]) == (1, 2)
    assert found["nrn"].keys() == found["nrn_l2"].keys()


def test_a_joint_code_has_l2_shares_and_no_nrn() -> None:
    slots = ["base", "sft", "rl"]
    l2_FM = np.array([[1.0, 1.0, 2.0]])
    table = with_l2(feature_table(slots, l2_FM, np.ones(1), 0.5, RANGE), slots, l2_FM)
    np.testing.assert_allclose(table[[f"mas_l2_{slot}" for slot in slots]], [[0.25, 0.25, 0.5]])
    assert "nrn_l2" not in table


def test_the_arm_is_the_post_trained_side_wherever_it_stands() -> None:
    l1_FM = np.array([[9.0, 1.0]])
    assert feature_table(["rl", "base"], l1_FM, np.ones(1), 0.5, RANGE).loc[0, "nrn"] == pytest.approx(0.9)


def test_base_with_itself_has_no_extreme_feature(tmp_path: Path) -> None:
    rows_FD = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    planted(["base", "base"], torch.stack([rows_FD, rows_FD])).save_pretrained(tmp_path / "null")
    rates = write_rates(tmp_path / "diagnostics", [0.2, 0.1, 0.0, 0.3], slots=("base", "base#2"))
    settings = AttributeSettings(attribution=Attribution())
    attribute(settings, crosscoder=tmp_path / "null", diagnostics=rates, out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "attribution.json").read_text())
    assert found["alive"] == 3
    assert found["nrn"]["outside"] == 0
    assert found["specific_features"] == {"base": 0, "base#2": 0}
    table = pd.read_parquet(tmp_path / "out" / "features.parquet")
    np.testing.assert_allclose(table["nrn"], [0.5, 0.5, np.nan, 0.5])
    np.testing.assert_allclose(table["l1_base#2"], rows_FD.abs().sum(dim=1), rtol=1e-6)
    np.testing.assert_allclose(table["l2_base#2"], rows_FD.square().sum(dim=1).sqrt(), rtol=1e-6)
    np.testing.assert_allclose(table["nrn_l2"], [0.5, 0.5, np.nan, 0.5])
