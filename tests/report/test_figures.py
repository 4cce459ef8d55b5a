"""Figures put marks where the numbers are."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from rlgen.report import causal, figures
from rlgen.report.paper import ACCURACY, paper_task
from rlgen.report.svg import DARK, LIGHT, Canvas, decades, linear, log10, standalone, ticks


def elements(svg: str, tag: str) -> list[dict[str, str]]:
    return [node.attrib for node in ElementTree.fromstring(svg).iter(tag)]


def test_scales_map_ends_to_ends() -> None:
    scale = linear((0.0, 2.0), (10.0, 110.0))
    assert [scale(value) for value in (0, 1, 2)] == [10, 60, 110]
    scale = log10((0.01, 1.0), (0.0, 100.0))
    assert [scale(value) for value in (0.01, 0.1, 1.0)] == pytest.approx([0, 50, 100])
    assert scale(0.0) == 0.0  # what a logarithm has no place for is drawn at the lower end


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.31, 0.42), (0, 90), (1e-4, 3e-4), (0, 32768)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 11
    assert low - 1e-9 <= found[0] <= found[-1] <= high + 1e-9
    steps = np.diff(found)
    assert np.allclose(steps, steps[0])


def test_decades() -> None:
    assert decades(0.002, 1) == pytest.approx([0.01, 0.1, 1])


def test_text_is_escaped_and_schemes_agree() -> None:
    canvas = Canvas(10, 10, 'a "label" <b>')
    canvas.text((1, 2), "<script>&")
    canvas.rect(0, 0, 1, 1, "ink", title="<i>")
    root = ElementTree.fromstring(standalone(canvas.svg()))
    assert root.attrib["aria-label"] == 'a "label" <b>'
    assert "".join(root.itertext()) == "<script>&<i>"
    assert LIGHT.keys() == DARK.keys()


def test_bars_are_as_high_as_the_accuracy() -> None:
    accuracy = {
        model: {"t": {"value": v, "low": v - 0.1, "high": v + 0.1, "n": 9}} for model, v in (("base", 0.4), ("rl", 0.8))
    }
    bars = elements(
        figures.accuracy_bars("transfer", ["t"], ["base", "rl"], accuracy, {"base": "m0", "rl": "m2"}), "rect"
    )
    assert float(bars[1]["height"]) == pytest.approx(2 * float(bars[0]["height"]), abs=0.02)


def test_a_models_colour_never_depends_on_the_order_of_methods() -> None:
    assert figures.model_colours({"sft": "sft", "rl": "grpo"}) == {"base": "m0", "sft": "m1", "rl": "m2"}
    assert figures.model_colours({"rl": "grpo", "sft": "sft"}) == {"base": "m0", "sft": "m1", "rl": "m2"}
    many = figures.model_colours({"sft": "sft", "rl": "grpo", "rl-2": "grpo", "dpo": "existing"})
    assert len(set(many.values())) == 5


def test_nrn_histogram_shows_every_feature_once() -> None:
    nrn = np.array([0.01, 0.5, 0.5, 0.5, 0.99])
    svg = figures.nrn_histogram("base", "rl", nrn, {"base_base": np.full(7, 0.5)}, (0.4, 0.6), "m2")
    shares = [float(found) for found in re.findall(r": ([\d.]+)% of 5<", svg)]
    assert sum(shares) == pytest.approx(100)
    assert "rl only" in svg


def test_ternary_corners_and_centre() -> None:
    rows = {"mas_base": [1.0, 0.0, 0.0, 1 / 3], "mas_sft": [0.0, 1.0, 0.0, 1 / 3], "mas_rl": [0.0, 0.0, 1.0, 1 / 3]}
    table = pd.DataFrame({**rows, "owner": ["base", "sft", "rl", "base"], "specific": [True, True, True, False]})
    svg = figures.mas_ternary(["base", "sft", "rl"], table, 0.5, {"base": "m0", "sft": "m1", "rl": "m2"})
    corners = [tuple(map(float, pair.split(","))) for pair in elements(svg, "polygon")[0]["points"].split()]
    dots = {style["stroke"]: style["d"] for style in elements(svg, "path")}
    for name, (x, y) in zip(("m0", "m1", "m2"), corners, strict=True):
        assert dots[f"var(--{name})"] == f"M{x:.1f} {y:.1f}h0"
    x, y = (float(value) for value in re.findall(r"[\d.]+", dots["var(--soft)"])[:2])
    assert (x, y) == pytest.approx((sum(c[0] for c in corners) / 3, sum(c[1] for c in corners) / 3), abs=0.1)
    sides = [math.dist(corners[i], corners[(i + 1) % 3]) for i in range(3)]
    assert sides == pytest.approx([sides[0]] * 3, abs=0.2)


def test_overlaps_are_as_dark_as_they_are_high_and_tell_their_interval() -> None:
    found = {"o": [[1.0, 0.5], [0.5, 1.0]], "o_low": [[1.0, 0.36], [0.36, 1.0]], "o_high": [[1.0, 0.64], [0.64, 1.0]]}
    svg = figures.overlap_matrix(["1", "final"], {**found, "null": {"mean": 0.9, "low": 0.8, "high": 1}}, "o", "m2")
    assert "1 and final: 0.50 [0.36, 0.64]" in svg
    same, other = (float(cell["fill-opacity"]) for cell in elements(svg, "rect")[:2])
    assert same == pytest.approx(1.0)
    assert other == pytest.approx(0.53)


def test_score_plot_counts_what_passes_and_marks_the_chosen() -> None:
    scores = pd.DataFrame({"feature": range(40), "score": np.linspace(1.0, 0.0, 40)})
    svg = causal.score_plot("max", scores, [0, 3], 0.5, "m2")
    assert f"threshold 0.5: {(scores['score'] > 0.5).sum()} kept" in svg
    assert [circle["r"] for circle in elements(svg, "circle")] == ["4.2", "4.2"]


def test_score_plot_counts_what_passes_beyond_what_is_drawn() -> None:
    scores = pd.DataFrame({"feature": range(1000), "score": np.linspace(1.0, 0.0, 1000)})
    assert "threshold 0.5: 500 kept" in causal.score_plot("max", scores, [0], 0.5, "m2")


def test_score_plot_counts_the_chosen_that_it_does_not_reach() -> None:
    scores = pd.DataFrame({"feature": range(1000), "score": np.linspace(1.0, -1.0, 1000)})
    assert "2 localised beyond rank 300" in causal.score_plot("max", scores, [0, 400, 999], None, "m2")
    assert "beyond rank" not in causal.score_plot("max", scores, [0, 299], None, "m2")


def test_score_plot_of_a_task_without_positive_scores() -> None:
    scores = pd.DataFrame({"feature": range(4), "score": np.zeros(4)})
    assert "0 kept" in causal.score_plot("max", scores, [], 0.2, "m2")


def test_without_a_threshold_neither_plot_has_a_line_for_it() -> None:
    scores = pd.DataFrame({"feature": range(4), "score": [1.0, 0.5, 0.2, -0.1]})
    curve = [{"threshold": 0.0, "kept": 3}, {"threshold": 0.5, "kept": 1}]
    null = {"low": 1, "high": 2}
    for threshold, dashed in ((0.2, 1), (None, 0)):
        for svg in (
            causal.score_plot("max", scores, [0], threshold, "m2"),
            causal.threshold_curve(curve, threshold, null),
        ):
            assert sum("stroke-dasharray" in line for line in elements(svg, "line")) == dashed


def test_effects_and_controls_share_one_axis() -> None:
    band = {"mean": 0.0, "q05": -0.1, "q95": 0.1, "draws": 20, "values": [-0.1, 0.1], "p": 0.05}
    block = {"effect": 0.2, "low": 0.15, "high": 0.25, "n": 100, "matched_random": band, "random_direction": band}
    svg = causal.intervention_forest("x", [("max", {**block, "encode_decode": 0.0, "ceiling": 0.3}, "max")], "m2")
    matched, _, ceiling, effect = elements(svg, "rect")
    assert float(effect["width"]) == pytest.approx(float(matched["width"]), abs=0.02)  # 0 to 0.2, and -0.1 to 0.1
    assert float(effect["x"]) == pytest.approx(float(matched["x"]) + float(matched["width"]) / 2, abs=0.02)
    assert float(ceiling["x"]) > float(effect["x"]) + float(effect["width"])


def test_ticks_of_small_effects_keep_their_decimals() -> None:
    band = {"mean": 0.0, "q05": -0.03, "q95": 0.03, "draws": 20, "values": [], "p": 0.05}
    block = {"effect": 0.05, "low": -0.04, "high": 0.08, "n": 50, "matched_random": band, "random_direction": band}
    block |= {"encode_decode": 0.0, "ceiling": 0.0}
    svg = causal.intervention_forest("x", [("max", block, "max")], "m2")
    marks = [node.text for node in ElementTree.fromstring(svg).iter("text")]
    assert [mark for mark in marks if mark in ("0", "+2.5", "+5", "+7.5")] == ["0", "+2.5", "+5", "+7.5"]


def test_the_papers_tasks_are_known_by_the_names_people_use() -> None:
    names = ("MATH-500", "openbookqa", "arc_challenge", "ARC-C", "SciQ", "max")
    assert [paper_task(name) for name in names] == ["MATH500", "OBQA", "ARC-C", "ARC-C", "SciQ", None]
    assert ACCURACY["Qwen3-4B"]["grpo"]["CSQA"] == pytest.approx(0.505)
