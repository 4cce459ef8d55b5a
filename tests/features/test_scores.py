"""The Score and its null, on planted codes."""

import numpy as np
import pytest

from rlgen.features.scores import Floats, Scores, permutation_null, threshold_curve

ITEMS, FEATURES = 60, 8


def make_scores(by_label: bool = True) -> Scores:
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
    return Scores(values, labels, np.arange(1.0, FEATURES + 1), np.arange(FEATURES) != 3)


def test_the_planted_feature_passes_and_no_other() -> None:
    scores = make_scores()
    assert scores.ranked(scores.kept(0.2)).tolist() == [1]
    assert scores.kept(0.2)[0, 2]
    assert scores.strength()[1] == pytest.approx(2 * 1.0, abs=0.05)
    curve = {row["threshold"]: row["kept"] for row in threshold_curve(scores)}
    assert curve[0.2] == 1
    assert curve[0.95] == 0


def test_without_a_threshold_the_mean_over_tasks_counts() -> None:
    scores = make_scores()
    ranked = scores.ranked(scores.kept(None)).tolist()
    assert ranked[:2] == [2, 1]
    assert not {3, 6} & set(ranked)
    assert (scores.strength()[ranked] > 0).all()


def test_the_null_tells_whether_the_labels_matter() -> None:
    matters = permutation_null(make_scores(), 0.2, 5, 99, np.random.default_rng(1))
    assert matters["strength"]["p"] == pytest.approx(0.01)
    assert matters["strength"]["high"] < matters["strength"]["observed"]
    general = permutation_null(make_scores(by_label=False), 0.2, 5, 99, np.random.default_rng(1))
    assert general["strength"]["p"] > 0.05
    assert general["overlap"]["mean"] == 1.0


def test_a_task_without_items_is_left_out() -> None:
    full = make_scores()
    labels = {**full.labels, "b": np.zeros(ITEMS, dtype=bool)}
    scores = Scores(full.values, labels, full.weight_F, full.alive_F)
    assert scores.used_T.tolist() == [True, False]
    assert scores.ranked(scores.kept(0.2)).tolist() == [2, 1]
    none = Scores(full.values, dict.fromkeys(labels, labels["b"]), full.weight_F, full.alive_F)
    assert none.ranked(none.kept(0.2)).tolist() == []
    assert permutation_null(none, 0.2, 5, 9, np.random.default_rng(0))["kept"]["p"] == 1
