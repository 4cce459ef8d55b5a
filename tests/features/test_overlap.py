"""Overlaps of top features and their intervals."""

import numpy as np
import pytest

from rlgen.evaluation.scoring import wilson
from rlgen.features.overlap import Agreement, bootstrapped, by_documents, by_features, overlaps, top_features


def test_the_same_sets_overlap_wholly_and_others_do_not() -> None:
    nrn_F = np.array([0.5, 0.9, 0.7, 0.1])
    assert top_features(nrn_F, 2).tolist() == [1, 2]
    np.testing.assert_allclose(overlaps([np.array([1, 2])], [np.array([2, 1]), np.array([1, 3])]), [[1.0, 0.5]])


def test_features_that_do_not_rise_are_not_among_the_top() -> None:
    rise_CF = np.array([[-np.inf, 2.0, 1.0, -np.inf], [-np.inf] * 4, [3.0, 2.0, 1.0, 0.5]])
    found = Agreement([rise_CF] * 3, 3)
    assert [top.tolist() for top in found.tops] == [[1, 2], [], [0, 1, 2]]
    np.testing.assert_allclose(found.same_CC, [[1, 0, 2 / 3], [0, 0, 0], [2 / 3, 0, 1]])


def test_wilson_is_the_textbooks() -> None:
    np.testing.assert_allclose(np.ravel(wilson(0.5, 10)), [0.2366, 0.7634], atol=1e-4)
    np.testing.assert_allclose(np.ravel(wilson(1.0, 50)), [1 / (1 + 1.959964**2 / 50), 1], atol=1e-6)
    np.testing.assert_allclose(np.ravel(wilson(0.0, 0)), [0, 1])  # nothing was drawn, nothing is known


def test_a_bootstrap_interval_surrounds_the_estimate_by_the_spread_of_the_draws() -> None:
    low, high = bootstrapped(0.5, [0.2, 0.3, 0.4])  # they lie below it, as redrawn overlaps do
    assert (float(low), float(high)) == pytest.approx((0.5 - 1.959964 * 0.1, 0.5 + 1.959964 * 0.1))
    low_CC, high_CC = bootstrapped(np.array([[1.0, 0.1]]), [np.array([[1.0, 0.1]]), np.array([[1.0, 0.9]])])
    np.testing.assert_allclose(low_CC, [[1.0, 0.0]])
    assert high_CC[0, 0] == 1.0
    assert 0.1 < high_CC[0, 1] <= 1.0


def agreement(random: np.random.Generator, noise: float) -> Agreement:
    """Three checkpoints, of which the first two are the same, read with noise on each half."""
    truth_CF = random.permuted(np.tile(np.arange(40.0), (2, 1)), axis=1)[[0, 0, 1]]
    halves = [truth_CF + noise * random.standard_normal(truth_CF.shape) for _ in range(2)]
    return Agreement([truth_CF, *halves], 10)


def test_without_noise_halves_agree_as_the_same_tokens_do() -> None:
    found = agreement(np.random.default_rng(0), 0.0)
    np.testing.assert_allclose(found.halves_CC, found.same_CC)
    np.testing.assert_allclose(found.same_CC[:2, :2], 1.0)
    assert found.null == 1.0


def test_noise_lowers_the_null_and_both_intervals_hold_what_they_are_of() -> None:
    random = np.random.default_rng(0)
    found = agreement(random, 20.0)
    assert found.null < 0.8
    for intervals in (by_features(found, 10), by_documents(found, [agreement(random, 20.0) for _ in range(20)])):
        for (low, high), value in zip(intervals, (found.same_CC, found.halves_CC, found.null), strict=True):
            assert np.shape(low) == np.shape(high) == np.shape(value)
            assert np.all((np.asarray(low) <= value) & (value <= np.asarray(high)))


def test_a_set_with_itself_has_no_uncertainty() -> None:
    (low_CC, high_CC), _, _ = by_features(agreement(np.random.default_rng(0), 5.0), 10)
    np.testing.assert_allclose([np.diagonal(low_CC), np.diagonal(high_CC)], 1.0)
