"""Accuracies and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlgen.evaluation.scoring import accuracy, paired_test, process_results, process_results_miniature, wilson


def test_wilsons_interval_is_the_published_one() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@pytest.mark.parametrize(("right", "items"), [(12, 30), (80, 200), (1, 2), (1, 1), (3, 500)])
def test_one_sample_an_item_is_the_plain_interval(right: int, items: int) -> None:
    found = accuracy(np.arange(items) < right, np.arange(items))
    expected = stats.binomtest(right, items).proportion_ci(0.95, method="wilson")
    assert (found["value"], found["n"]) == (right / items, items)
    assert (found["low"], found["high"]) == pytest.approx(expected, abs=1e-6)


def test_samples_that_only_repeat_an_item_add_nothing() -> None:
    right = np.arange(100) < 30
    once = accuracy(right, np.arange(100))
    twice = accuracy(np.tile(right, 2), np.tile(np.arange(100), 2))
    assert twice == pytest.approx(once)


def test_independent_samples_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(400 * 4) < 0.5
    one, four = accuracy(right[:400], np.arange(400)), accuracy(right, np.repeat(np.arange(400), 4))
    assert four["high"] - four["low"] == pytest.approx((one["high"] - one["low"]) / 2, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_or_nothing_still_has_an_interval(value: float) -> None:
    found = accuracy(np.full(50, value), np.arange(50))
    assert found["value"] == value
    assert 0.05 < found["high"] - found["low"] < 0.1


def test_intervals_cover() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        rate = rng.beta(2, 2, size=100)
        found = accuracy((rng.random((100, 3)) < rate[:, None]).ravel(), np.repeat(np.arange(100), 3))
        hits += found["low"] <= 0.5 <= found["high"]
    assert hits / 400 == pytest.approx(0.95, abs=0.03)


def test_the_harness_hook_averages_samples() -> None:
    doc = {"prompt": "Q max 123456\nA ", "answer": "6"}
    assert process_results_miniature(doc, [["6", "12=6", "5", ""]]) == {"acc": 0.5}
    assert process_results(doc, [["6", "so 6", "5", ""]]) == {"acc": 0.5}
    assert process_results(doc, ["6"]) == {"acc": 1.0}


# ------------------------------------------------------------------------------------------- paired tests


def discordant(better: int, worse: int, same: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Items' accuracies of two models that differ on so many."""
    first = np.repeat([1.0, 0.0, 1.0], [better, worse, same])
    return first, np.repeat([0.0, 1.0, 1.0], [better, worse, same])


def test_mcnemars_published_example() -> None:
    """Approval of a prime minister, asked twice of 1,600 (Agresti, Categorical Data Analysis): z squared is 17.36."""
    first, second = discordant(86, 150, 794 + 570)
    found = paired_test(first, second, single=False)
    assert (found["n"], found["better"], found["worse"]) == (1600, 86, 150)
    assert found["p"] == pytest.approx(stats.chi2.sf(17.36, df=1), rel=1e-2)
    assert paired_test(first, second, single=True)["p"] == pytest.approx(stats.binomtest(86, 236).pvalue)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 50))
def test_one_sample_an_item_is_the_exact_binomial_test(better: int, worse: int, same: int) -> None:
    first, second = discordant(better, worse, same + 1)
    found = paired_test(first, second, single=True)
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert found["p"] == pytest.approx(expected)
    assert found["difference"] == pytest.approx((better - worse) / (better + worse + same + 1))
    assert paired_test(second, first, single=True)["p"] == found["p"]


@given(st.integers(0, 300), st.integers(1, 300))
def test_clusters_of_one_are_mcnemars_chi_square(better: int, worse: int) -> None:
    found = paired_test(*discordant(better, worse, 7), single=False)
    assert found["p"] == pytest.approx(stats.chi2.sf((better - worse) ** 2 / (better + worse), df=1), rel=1e-9)


def test_an_item_counts_once_however_often_it_was_sampled() -> None:
    """Samples that only repeat their item make no difference, as they would if each counted."""
    first, second = discordant(12, 3, 20)
    once = paired_test(first, second, single=False)
    means = [np.repeat(accuracies, 8).reshape(-1, 8).mean(1) for accuracies in (first, second)]
    assert paired_test(*means, single=False) == once


def test_models_that_agree_everywhere_are_not_told_apart() -> None:
    for single in (True, False):
        assert paired_test([1, 0, 1], [1, 0, 1], single)["p"] == 1.0


@pytest.mark.parametrize("samples", [1, 4])
def test_where_there_is_no_difference_p_is_uniform(samples: int) -> None:
    """Each model has a luck of its own on every item, which its samples share: counting samples rejects too often."""
    rng = np.random.default_rng(0)
    clustered, naive = [], []
    for _ in range(1500):
        right = rng.random((2, 150, samples)) < rng.beta(0.5, 0.5, (2, 150, 1))
        clustered.append(paired_test(*right.mean(-1), single=False)["p"])
        naive.append(paired_test(*right.reshape(2, -1).astype(float), single=False)["p"])
    assert stats.kstest(clustered, "uniform").statistic < 0.06
    assert np.mean(np.array(clustered) < 0.05) == pytest.approx(0.05, abs=0.015)
    assert samples == 1 or np.mean(np.array(naive) < 0.05) > 0.15
