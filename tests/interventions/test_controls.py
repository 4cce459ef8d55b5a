"""Matched random features and random directions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlgen.interventions.controls import WINDOW, matched_sets, matched_shift, random_direction

RATES = np.concatenate([np.zeros(50), np.geomspace(1e-4, 0.5, 450)])
SELECTED = [60, 200, 201, 400]


def test_stand_ins_are_alive_and_others_and_fire_alike() -> None:
    sets = matched_sets(RATES, SELECTED, draws=20, seed=3)
    assert len(sets) == 20
    for chosen in sets:
        assert len(chosen) == len(set(chosen)) == len(SELECTED)
        assert not set(chosen) & set(SELECTED)
        assert (RATES[chosen] > 0).all()
        assert (np.abs(np.array(chosen) - SELECTED) <= WINDOW + len(SELECTED)).all()  # rates rise with the index
    assert len({tuple(chosen) for chosen in sets}) == 20
    assert sets == matched_sets(RATES, SELECTED, draws=20, seed=3)
    assert sets[:5] == matched_sets(RATES, SELECTED, draws=5, seed=3)
    assert sets != matched_sets(RATES, SELECTED, draws=20, seed=4)


def test_with_too_few_features_sets_are_smaller() -> None:
    rates = np.array([0.1, 0.2, 0.3, 0.0])
    assert matched_sets(rates, [0, 1], draws=2, seed=0) == [[2], [2]]
    assert matched_sets(rates, [0, 1, 2], draws=1, seed=0) == [[]]
    assert matched_sets(rates, [], draws=1, seed=0) == [[]]


@given(st.lists(st.floats(-3, 3).filter(lambda x: abs(x) > 0.01), min_size=1, max_size=5), st.integers(0, 99))
def test_a_matched_shift_has_the_norm_of_the_shift(steps: list[float], seed: int) -> None:
    rows_FD = torch.randn(20, 16, generator=torch.Generator().manual_seed(seed))
    selected, stand_ins = list(range(len(steps))), list(range(10, 10 + len(steps)))
    steps_KD = torch.tensor(steps)[:, None] * rows_FD[selected]
    wanted = steps_KD.sum(dim=0).norm()
    found_D = matched_shift(rows_FD, selected, steps_KD, stand_ins)
    torch.testing.assert_close(found_D.norm(), wanted, rtol=1e-4, atol=1e-5)
    if len(steps) == 1:
        assert torch.sign(found_D @ rows_FD[10]) == np.sign(steps[0])


def test_directions_are_of_norm_1_and_their_own() -> None:
    first, second = random_direction(64, 0, seed=1), random_direction(64, 1, seed=1)
    assert first.norm() == pytest.approx(1.0)
    assert abs(float(first @ second)) < 0.6
    assert torch.equal(first, random_direction(64, 0, seed=1))
