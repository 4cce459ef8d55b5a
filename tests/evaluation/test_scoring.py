"""Accuracies and their intervals."""

import numpy as np
import pytest

from rlgen.evaluation.scoring import accuracy, process_results, wilson


def test_wilsons_interval_is_the_published_one() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_one_sample_an_item_is_the_plain_interval() -> None:
    right = np.arange(200) < 80
    found = accuracy(right, np.arange(200))
    assert (found["value"], found["n"]) == (0.4, 200)
    assert (found["low"], found["high"]) == pytest.approx(wilson(0.4, 200), abs=1e-3)


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
    assert process_results(doc, [["6", "12=6", "5", ""]]) == {"acc": 0.5}
    assert process_results(doc, ["6"]) == {"acc": 1.0}
