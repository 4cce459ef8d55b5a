"""The Score and its null, on planted codes."""

import numpy as np
import pytest

from rlgen.features.scores import Floats, Scores, permutation_null, threshold_curve

ITEMS, FEATURES = 60, 8


def make_scores(change: str = "raised", by_label: bool = True) -> Scores:
    """Feature 1 is raised and 6 lowered on both tasks, 2 on one alone; 3 moves most but is dead; the rest is noise."""
    rng = np.random.default_rng(0)
    codes: dict[str, dict[str, Floats]] = {}
    labels = {}
    for task in ("a", "b"):
        labels[task] = rng.permutation(ITEMS) < ITEMS // 3
        where = labels[task] if by_label else np.ones(ITEMS, dtype=bool)
        base = rng.random((ITEMS, FEATURES))
        arm = base + 0.02 * rng.standard_normal((ITEMS, FEATURES))
        arm[where, 1] += 1.0
        arm[where, 6] -= 3.0
        arm[where, 3] += 9.0
        if task == "a":
            arm[where, 2] += 2.0
        codes[task] = {"base": base, "arm": arm}
    alive = np.arange(FEATURES) != 3
    norm = np.arange(1.0, FEATURES + 1)
    return Scores(codes, labels, norm, alive, change)  # type: ignore[arg-type]


def test_the_planted_feature_passes_and_no_other() -> None:
    scores = make_scores()
    assert scores.ranked(scores.kept(0.2)).tolist() == [1]
    assert scores.kept(0.2)[0, 2]
    assert scores.strength()[1] == pytest.approx(2 * 1.0, abs=0.05)
    curve = {row["threshold"]: row["kept"] for row in threshold_curve(scores)}
    assert curve[0.2] == 1
    assert curve[0.95] == 0


def test_either_direction_counts_if_asked_for() -> None:
    scores = make_scores("either")
    assert scores.ranked(scores.kept(0.2)).tolist() == [6, 1]
    assert scores.strength()[6] == pytest.approx(-7 * 3.0, abs=0.2)


def test_the_null_tells_whether_the_labels_matter() -> None:
    matters = permutation_null(make_scores("either"), 0.2, 5, 99, np.random.default_rng(1))
    assert matters["strength"]["p"] == pytest.approx(0.01)
    assert matters["strength"]["high"] < matters["strength"]["observed"]
    general = permutation_null(make_scores("either", by_label=False), 0.2, 5, 99, np.random.default_rng(1))
    assert general["strength"]["p"] > 0.05
    assert general["overlap"]["mean"] == 1.0


def test_a_task_without_items_is_left_out() -> None:
    full = make_scores()
    labels = {**full.labels, "b": np.zeros(ITEMS, dtype=bool)}
    scores = Scores(full.codes, labels, full.norm_F, full.alive_F)
    assert scores.used_T.tolist() == [True, False]
    assert scores.ranked(scores.kept(0.2)).tolist() == [2, 1]
    none = Scores(full.codes, dict.fromkeys(labels, labels["b"]), full.norm_F, full.alive_F)
    assert none.ranked(none.kept(0.2)).tolist() == []
    assert permutation_null(none, 0.2, 5, 9, np.random.default_rng(0))["kept"]["p"] == 1


def test_the_table_has_the_mean_codes() -> None:
    scores = make_scores()
    table = scores.table().set_index(["task", "feature"])
    row = table.loc[("a", 1)]
    assert row["score"] == pytest.approx(row["mean_code_arm"] - row["mean_code_base"])
    assert row["mean_code_base"] == pytest.approx(scores.codes["a"]["base"][scores.labels["a"], 1].mean())
    assert table.loc[("a", 3), "score"] == 0
