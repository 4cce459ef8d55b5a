"""The Score, its null and its resamples, on planted values."""

import numpy as np
import pytest

from rlgen.features import scores as module
from rlgen.features.resampling import bootstrap, permutation_null
from rlgen.features.scores import Floats, ItemValues, threshold_curve

ITEMS, FEATURES = 60, 8


def make_values(by_label: bool = True) -> ItemValues:
    """Feature 1 is raised and 6 lowered on both tasks, 2 on one alone; 3 moves most but is dead; the rest is noise."""
    rng = np.random.default_rng(0)
    values: dict[str, Floats] = {}
    labels = {}
    for task in ("a", "b"):
        labels[task] = rng.permutation(ITEMS) < ITEMS // 3
        where = labels[task] if by_label else np.ones(ITEMS, dtype=bool)
        moved = 0.02 * rng.standard_normal((ITEMS, FEATURES))
        moved[where, 1] += 1.0
        moved[where, 6] -= 3.0
        moved[where, 3] += 9.0
        if task == "a":
            moved[where, 2] += 2.0
        values[task] = moved
    return ItemValues(values, labels, np.arange(1.0, FEATURES + 1), np.arange(FEATURES) != 3)


def test_the_planted_feature_passes_and_no_other() -> None:
    scores = make_values().scores
    assert scores.ranked(0.2).tolist() == [1]
    assert scores.kept(0.2)[0, 2]
    assert scores.strength[1] == pytest.approx(2 * 1.0, abs=0.05)
    curve = {row["threshold"]: row["kept"] for row in threshold_curve(scores)}
    assert curve[0.2] == 1
    assert curve[0.95] == 0


def test_without_a_threshold_the_mean_over_tasks_counts() -> None:
    scores = make_values().scores
    ranked = scores.ranked(None).tolist()
    assert ranked[:2] == [2, 1]
    assert not {3, 6} & set(ranked)
    assert (scores.strength[ranked] > 0).all()


def test_the_null_tells_whether_the_labels_matter() -> None:
    matters = permutation_null(make_values(), 0.2, 5, 99, np.random.default_rng(1))
    assert matters["strength"]["p"] == pytest.approx(0.01)
    assert matters["strength"]["high"] < matters["strength"]["observed"]
    general = permutation_null(make_values(by_label=False), 0.2, 5, 99, np.random.default_rng(1))
    assert general["strength"]["p"] > 0.05
    assert general["overlap"]["mean"] == 1.0


def test_a_task_without_items_is_left_out() -> None:
    full = make_values()
    labels = {**full.labels, "b": np.zeros(ITEMS, dtype=bool)}
    scores = ItemValues(full.values, labels, full.weight_F, full.alive_F).scores
    assert scores.used_T.tolist() == [True, False]
    assert scores.ranked(0.2).tolist() == [2, 1]
    none = ItemValues(full.values, dict.fromkeys(labels, labels["b"]), full.weight_F, full.alive_F)
    assert none.scores.ranked(0.2).tolist() == []
    assert permutation_null(none, 0.2, 5, 9, np.random.default_rng(0))["kept"]["p"] == 1
    again = bootstrap(none, 0.2, 5, 9, np.random.default_rng(0))
    assert (again["frequency"], again["stable"], again["overlap"]["mean"]) == ([], 0, 0)


def test_what_hangs_on_one_item_is_chosen_when_that_item_is_drawn() -> None:
    """Of n items drawn from n with replacement, a given one is among them with probability 1 - (1 - 1/n)^n."""
    items, draws = 12, 2000
    value_IF = np.zeros((items, 3))
    value_IF[:, 0] = 5.0
    value_IF[4, 1] = 1.0
    value_IF[:, 2] = np.where(np.arange(items) < 6, -1.0, 9.0)  # raised on items that do not count
    label_I = np.arange(items) < 6
    values = ItemValues({"a": value_IF}, {"a": label_I}, np.ones(3), np.ones(3, dtype=bool))
    found = bootstrap(values, None, 3, draws, np.random.default_rng(0))
    once = 1 - (1 - 1 / items) ** items
    assert found["frequency"][0] == pytest.approx(1, abs=0.01)  # 0 where no item that counts is drawn: 1 in 4,096
    assert found["frequency"][1] == pytest.approx(once, abs=4 * (once * (1 - once) / draws) ** 0.5)
    assert len(found["frequency"]) == 2
    assert found["stable"] == 1
    assert found["overlap"]["mean"] == pytest.approx(np.mean(found["frequency"]))


def test_a_resample_without_items_of_a_task_leaves_that_task_out() -> None:
    """Task b has one item that counts, on which no feature passes; without it, the feature of task a does."""
    values = {"a": np.ones((40, 1)), "b": np.full((40, 1), -3.0)}
    labels = {"a": np.ones(40, dtype=bool), "b": np.arange(40) == 7}
    found = [
        scores.ranked(None).tolist()
        for scores in ItemValues(values, labels, np.ones(1), np.ones(1, dtype=bool)).under(
            {"a": np.ones((2, 40), dtype=np.int64), "b": np.stack([labels["b"] * 2, labels["b"] * 0])}
        )
    ]
    assert found == [[], [0]]


def test_how_many_choices_are_scored_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> list[object]:
        return [
            of(make_values(), 0.2, 5, 37, np.random.default_rng(1))["overlap"] for of in (bootstrap, permutation_null)
        ]

    whole = both()
    monkeypatch.setattr(module, "DRAWS", 5)
    assert both() == whole
