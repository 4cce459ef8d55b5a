"""Which features and items are measured, and what becomes of the others."""

import numpy as np

from rlgen.features.scores import ItemValues
from rlgen.features.values import candidates, patched_items, patched_values

FEATURES = 6
ALIVE_F = np.arange(FEATURES) != 5
NAMES = [f"item-{index}" for index in range(40)]


def make(sizes: list[float], label_I: np.ndarray, weight: float = 1.0) -> ItemValues:
    """A score of two tasks whose features move by `sizes`, up on even items and down on odd ones."""
    value_IF = np.where(np.arange(40)[:, None] % 2, -1.0, 1.0) * np.array(sizes)
    return ItemValues({"a": value_IF, "b": value_IF}, {"a": label_I, "b": label_I}, np.full(FEATURES, weight), ALIVE_F)


def test_candidates_are_the_largest_of_each_score_in_turn() -> None:
    label_I = np.arange(40) < 20
    by_score = {"one": make([9, 8, 7, 1, 0, 99], label_I), "other": make([1, 2, 3, 9, 0, 99], label_I)}
    assert candidates(by_score, 2).tolist() == [0, 3]  # the largest of the one, of the other
    assert candidates(by_score, 4).tolist() == [0, 1, 2, 3]
    assert candidates(by_score, 100).tolist() == [0, 1, 2, 3]  # neither what never moves nor what is dead


def test_candidates_do_not_hang_on_the_labels() -> None:
    """Else what was put forward by them would beat permuted ones."""
    sizes = [5, 4, 3, 2, 1, 0]
    found = [
        candidates({"one": make([float(size) for size in sizes], label_I)}, 3).tolist()
        for label_I in (np.arange(40) < 20, np.arange(40) % 3 == 0, np.zeros(40, dtype=bool))
    ]
    assert found[0] == found[1] == found[2] == [0, 1, 2]


def test_as_many_items_that_count_are_patched_as_others() -> None:
    label_I = np.arange(40) % 4 == 0
    chosen = patched_items(NAMES, label_I, 6, 0, "a")
    assert (len(chosen), int(label_I[chosen].sum())) == (12, 6)
    assert (np.diff(chosen) > 0).all()
    everything = patched_items(NAMES, label_I, 1000, 0, "a")
    assert label_I[everything].sum() == 10
    assert len(everything) == 20
    assert patched_items(NAMES, np.zeros(40, dtype=bool), 6, 0, "a").tolist() == []


def test_which_items_are_patched_follows_from_the_seed_and_their_names() -> None:
    label_I = np.arange(40) % 2 == 0
    chosen = {NAMES[index] for index in patched_items(NAMES, label_I, 6, 0, "a")}
    back = {NAMES[::-1][index] for index in patched_items(NAMES[::-1], label_I[::-1], 6, 0, "a")}
    assert back == chosen
    assert {NAMES[index] for index in patched_items(NAMES, label_I, 6, 1, "a")} != chosen


def test_what_was_not_measured_takes_no_part() -> None:
    label_I = np.arange(40) < 20
    features, chosen = np.array([1, 4]), {"a": np.array([0, 3, 30]), "b": np.array([5, 6, 39])}
    effects = {"a": np.array([[1.0, -2], [3, -2], [50, 50]]), "b": np.array([[2.0, -4], [4, -4], [50, 50]])}
    found = patched_values(effects, chosen, features, make([1.0] * FEATURES, label_I))
    assert found.scores.score_TF.tolist() == [[0, 2, 0, 0, -2, 0], [0, 3, 0, 0, -4, 0]]
    assert found.alive_F.nonzero()[0].tolist() == [1, 4]
    assert found.scores.ranked(None).tolist() == [1]
    assert found.scores.ranked(0.0).tolist() == [1]
