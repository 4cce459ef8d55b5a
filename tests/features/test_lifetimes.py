"""When features are born and when they die, on hand-made firing rates; steps are base and three checkpoints."""

import numpy as np
import pytest

from rlgen.features.drift import drift, rank_correlations
from rlgen.features.lifetimes import birth, changed, death, slope


def by_feature(*rates: list[float]) -> np.ndarray:
    """Rates by step of each feature, as [steps, F]."""
    return np.array(rates).T


def test_birth_is_where_half_of_the_final_rate_is_reached_first() -> None:
    rate_SF = by_feature([0, 0.1, 0.19, 0.4], [0, 0.2, 0.1, 0.4], [0.1, 0.3, 0.3, 0.3])
    assert birth(rate_SF).tolist() == [2, 0, 0]


def test_death_is_from_where_on_the_rate_stays_below_half_of_bases() -> None:
    rate_SF = by_feature([0.4, 0.1, 0.3, 0.1], [0.4, 0.3, 0.1, 0.1], [0.4, 0.19, 0.19, 0.0])
    assert death(rate_SF).tolist() == [2, 1, 0]


def test_only_what_both_halves_show_was_born_or_died() -> None:
    base, final = [100, 100, 100, 100, 4, 0, 30], [200, 199, 49, 50, 9, 30, 0]
    first_SF = np.array([base, final], dtype=float)
    born_F, died_F = changed([first_SF / 1000] * 2, [first_SF] * 2, least=10)
    assert born_F.tolist() == [True, False, False, False, False, True, False]  # 9 tokens are too few
    assert died_F.tolist() == [False, False, True, False, False, False, True]
    still_SF = np.array([base, base], dtype=float)
    for either in ([first_SF, still_SF], [still_SF, first_SF]):
        assert not np.any(changed([half / 1000 for half in either], either, least=10))


def test_slope_is_a_lines_own() -> None:
    np.testing.assert_allclose(slope(by_feature([1, 3, 5, 7], [2, 2, 2, 2], [1, 0, 0, 1])), [2, 0, 0], atol=1e-12)


def test_rank_correlation_is_spearmans() -> None:
    values = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    others = np.array([[1.0, 8.0, 27.0, 64.0, 125.0], [5.0, 4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 4.0, 3.0, 5.0], [7.0] * 5])
    np.testing.assert_allclose(rank_correlations(values, others), [[1, -1, 1 - 6 * 4 / (5 * 24), np.nan]])
    np.testing.assert_allclose(rank_correlations(np.array([[1.0, 1.0, 2.0]]), np.array([[5.0, 5.0, 9.0]])), [[1.0]])


def test_drift_is_measured_against_the_final_checkpoint_and_across_halves() -> None:
    on_all = np.array([[0.2, 0.4], [0.5, 0.5], [0.6, 0.4]])
    first, second = on_all + 0.01, on_all - 0.01
    found = drift(np.array([on_all, first, second]), ["rl@1", "rl@2", "rl"])
    assert list(found["distance_to_final"].values()) == pytest.approx([0.2, 0.1, 0])
    assert list(found["distance_across_halves"].values()) == pytest.approx([0.02] * 3)
    assert found["rank_correlation"][0] == [pytest.approx(1), None, pytest.approx(-1)]  # the second ranks nothing
    assert found["quantiles"]["rl@1"]["0.5"] == pytest.approx(0.3)
