"""The figures of localisation, interventions and cost. Each function draws one panel as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rlgen.report import words
from rlgen.report.svg import Plot, colour, ticks

Block = Mapping[str, Any]
Row = tuple[str, Block, str | None]
"""A label, its effects, and the task's name; None for a mean over tasks."""

_SHOWN = 300
"""Ranks drawn in a score plot: far beyond the threshold of any study, and a small file at 32,768 features."""


def _points(value: float) -> str:
    return words.points(value).removesuffix(".0")


def score_plot(task: str, scores: pd.DataFrame, chosen: Sequence[int], threshold: float | None, fill: str) -> str:
    """A task's features by rank of score, as a share of its highest; the localised ones stand out.

    `scores` has columns feature and score, one row a feature of this task; nan where the score was not measured.
    """
    ranked = scores.dropna(subset="score").sort_values("score", ascending=False, ignore_index=True)
    highest = float(ranked["score"].iloc[0])
    top = ranked.head(_SHOWN)
    shares = (top["score"] / highest).to_numpy() if highest > 0 else top["score"].to_numpy() * 0
    last = max(len(top), 2)
    floor = max(min(float(shares.min()), 0.0), -0.25)
    plot = Plot((330, 220), f"Scores on {task}", (1, last), (floor, 1.05), (12, 10, 36, 48), log_x=True)
    plot.y_axis(ticks(floor, 1, 5), words.number, "score / highest score")
    if threshold is not None:
        plot.line((plot.left, plot.y(threshold)), (plot.right, plot.y(threshold)), "bad", 1.2, "5 3")
        passed = int((ranked["score"] > threshold * highest).sum()) if highest > 0 else 0
        label = f"threshold {threshold:g}: {passed} kept"
        plot.text((plot.right, plot.y(threshold) - 5), label, 11, "bad", text_anchor="end")
    place = [(plot.x(rank + 1), plot.y(max(share, floor))) for rank, share in enumerate(shares)]
    kept = top["feature"].isin(chosen).to_numpy()
    plot.dots((spot for spot, own in zip(place, kept, strict=True) if not own), "soft", 4, stroke_opacity=0.55)
    for (x, y), feature, share in (
        (place[i], int(top["feature"].iloc[i]), float(shares[i])) for i in range(len(top)) if kept[i]
    ):
        plot.add("circle", None, f"feature {feature}: {share:.2f}", cx=x, cy=y, r=4.2, fill=colour(fill))
    beyond = len(chosen) - int(kept.sum())
    if beyond:
        said = f"{beyond} localised beyond rank {len(top)}"
        plot.text((plot.right, plot.top + 24), said, 11, text_anchor="end")
    marks = [mark for mark in (1, 3, 10, 30, 100, 300) if mark <= last]
    plot.x_axis(marks, lambda v: f"{v:g}", "rank (log)")
    return plot.svg()


def threshold_curve(curve: Sequence[Block], threshold: float | None, null: Block) -> str:
    """How many features survive in every transfer task as the threshold rises; the null's range beside it."""
    kept = [row["kept"] for row in curve]
    most = max([*kept, 1])
    ends = (min(row["threshold"] for row in curve), max(row["threshold"] for row in curve))
    plot = Plot((330, 220), "Features kept by threshold", ends, (0, most), (12, 12, 36, 48))
    plot.y_axis(ticks(0, most, 4), lambda v: f"{v:g}", "features kept in all tasks")
    spots = [(plot.x(row["threshold"]), plot.y(row["kept"])) for row in curve]
    plot.path(spots, "ink")
    plot.dots(spots, "ink", 5)
    if threshold is not None:
        plot.line((plot.x(threshold), plot.top), (plot.x(threshold), plot.bottom), "bad", 1.2, "5 3")
        low, high = (plot.y(min(null[key], most)) for key in ("low", "high"))
        title = f"permuted labels: {null['low']:g} to {null['high']:g}"
        plot.rect(plot.x(threshold) + 5, high, 5, max(low - high, 2), "soft", title=title)
    plot.x_axis(ticks(*ends, 5), lambda v: f"{v:g}", "threshold, share of the highest score")
    return plot.svg()


def intervention_forest(label: str, rows: Sequence[Row], fill: str) -> str:
    """An edit's effect by task, a bar with its 95% interval, against every control on the same line."""
    values = [value for _, block, _ in rows for value in _extent(block)]
    low, high = min([*values, -0.05]), max([*values, 0.05])
    pad = 0.04 * (high - low)
    lane, top = 30.0, 8.0
    size = (430.0, top + lane * len(rows) + 38)
    plot = Plot(size, label, (low - pad, high + pad), (0, 1), (top, 12, 38, 106))
    plot.x_axis(ticks(low - pad, high + pad, 6), _points, "change of accuracy, points", grid=True)
    for index, (name, block, task) in enumerate(rows):
        middle = top + (index + 0.5) * lane
        if task is None:
            plot.rect(0, middle - lane / 2 + 1, plot.width, lane - 2, "panel", fill_opacity=0.6)
        weight = {"font_weight": 650} if task is None else {}
        plot.text((plot.left - 8, middle + 4), name, 11.5, "ink", text_anchor="end", **weight)
        _controls(plot, block, middle)
        _effect(plot, name, block, middle, fill)
    plot.line((plot.x(0), top), (plot.x(0), plot.bottom), "ink", 1.2)
    return plot.svg(zoom=1.17)


def _extent(block: Block) -> list[float]:
    matched, direction = block["matched_random"], block["random_direction"]
    found = [block[key] for key in ("effect", "low", "high", "ceiling", "encode_decode")]
    found += [inner[key] for inner in (matched, direction) for key in ("q05", "q95")]
    return [*found, *matched["values"]]


def _controls(plot: Plot, block: Block, middle: float) -> None:
    matched, direction = block["matched_random"], block["random_direction"]
    start, end = plot.x(matched["q05"]), plot.x(matched["q95"])
    title = f"{matched['draws']} matched random sets: 5% to 95% {_points(matched['q05'])} to {_points(matched['q95'])}"
    plot.rect(start, middle - 11, max(end - start, 1.5), 22, "band", title=title, fill_opacity=0.75)
    for value in matched["values"]:
        plot.line((plot.x(value), middle - 11), (plot.x(value), middle - 6), "soft", 1)
    start, end = plot.x(direction["q05"]), plot.x(direction["q95"])
    plot.rect(start, middle + 7.5, max(end - start, 3), 3, "ink", title="random directions, 5% to 95%", rx=1.5)
    x = plot.x(block["ceiling"])
    plot.rect(x - 1.5, middle - 11, 3, 22, "good", title=f"ceiling: {_points(block['ceiling'])}")
    x = plot.x(block["encode_decode"])
    shape = f"M{x:.1f} {middle - 5:.1f}l5 5l-5 5l-5-5z"
    title = f"encode-decode: {_points(block['encode_decode'])}"
    plot.add("path", None, title, d=shape, fill=colour("paper"), stroke=colour("ink"), stroke_width=1.3)


def _effect(plot: Plot, name: str, block: Block, middle: float, fill: str) -> None:
    zero, end = plot.x(0), plot.x(block["effect"])
    title = f"{name}: {_points(block['effect'])} points, n = {block['n']}"
    plot.rect(min(zero, end), middle - 4.5, abs(end - zero), 9, fill, title=title)
    low, high = plot.x(block["low"]), plot.x(block["high"])
    plot.line((low, middle), (high, middle), "ink", 1.4)
    for x in (low, high):
        plot.line((x, middle - 3), (x, middle + 3), "ink", 1.4)


def wall_bars(wall_seconds: Mapping[str, float]) -> str:
    """Wall time by stage, summed over its jobs."""
    top, lane = 4.0, 22.0
    most = max([*wall_seconds.values(), 1e-3])
    size = (430.0, top + lane * len(wall_seconds) + 8)
    plot = Plot(size, "Wall time by stage", (0, most), (0, 1), (top, 64, 8, 92))
    for index, (name, seconds) in enumerate(wall_seconds.items()):
        y = top + index * lane
        plot.text((plot.left - 8, y + 15), name, 11.5, "ink", text_anchor="end")
        plot.rect(plot.left, y + 4, plot.x(seconds) - plot.left, lane - 7, "soft")
        plot.text((plot.x(seconds) + 6, y + 15), duration(seconds), 11)
    return plot.svg(zoom=1.17)


def duration(seconds: float) -> str:
    """A wall time in the unit that reads best."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
