"""The figures of accuracies, attribution and tracking. Each function draws one panel as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlgen.report.svg import Canvas, Plot, Point, colour, decades, ticks
from rlgen.study.study import BASE

Floats = NDArray[np.float64]
Block = Mapping[str, Any]

_BINS = np.linspace(0.0, 1.0, 51)


def model_colours(arms: Mapping[str, str]) -> dict[str, str]:
    """Each model's colour for the whole page: base grey, the first SFT arm orange, the first RL arm blue."""
    free = ["m3", "m4", "m5", "m6"]
    firsts = {"sft": "m1", "grpo": "m2"}
    found = {BASE: "m0"}
    for index, (arm, method) in enumerate(arms.items()):
        found[arm] = firsts.pop(method, free[index % len(free)])
    return found


def percent(value: float) -> str:
    """A share in per cent, without a sign."""
    return f"{100 * value:.0f}"


def curves(label: str, found: Mapping[str, Block], colours: Mapping[str, str]) -> str:
    """One line an arm over its optimiser steps; `found` has `steps` and `values` by arm."""
    steps = [step for block in found.values() for step in block["steps"]]
    values = [value for block in found.values() for value in block["values"]]
    low, high = min(0.0, *values), max(0.0, *values)
    plot = Plot((330, 190), label, (0, max(steps)), (low, high or 1.0), (12, 14, 34, 52))
    plot.y_axis(ticks(low, high or 1.0, 4), lambda v: f"{v:g}")
    for arm, block in found.items():
        points = [(plot.x(x), plot.y(y)) for x, y in zip(block["steps"], block["values"], strict=True)]
        plot.path(points, colours[arm], 1.6, stroke_linejoin="round")
    plot.x_axis(ticks(0, max(steps), 4), lambda v: f"{v:g}", "optimiser step")
    return plot.svg()


def accuracy_bars(
    group: str, tasks: Sequence[str], models: Sequence[str], accuracy: Mapping[str, Block], colours: Mapping[str, str]
) -> str:
    """Accuracy by task, one bar a model with its 95% interval; a dashed line where guessing among choices would be."""
    bar, gap, margin = 20.0, 22.0, (22, 8, 26, 36)
    width = max(150.0, margin[3] + margin[1] + len(tasks) * (bar * len(models) + gap))
    size = (width, 220.0)
    plot = Plot(size, f"Accuracy by model on {group} tasks", (0, len(tasks)), (0, 1), margin)
    plot.y_axis([0, 0.25, 0.5, 0.75, 1], percent)
    for index, task in enumerate(tasks):
        middle = plot.x(index + 0.5)
        plot.text((middle, plot.bottom + 16), task, 12, "ink", text_anchor="middle")
        for slot, model in enumerate(models):
            left = middle + (slot - len(models) / 2) * bar
            _bar_with_interval(plot, left, bar - 3, accuracy[model][task], colours[model], f"{model} on {task}")
        chance = accuracy[models[0]][task].get("chance")
        if chance is not None:
            reach = (len(models) * bar + gap) / 2 - 4
            plot.line((middle - reach, plot.y(chance)), (middle + reach, plot.y(chance)), "ink", 1, "3 2")
    plot.line((plot.left, plot.bottom), (plot.right, plot.bottom), "soft")
    return plot.svg()


def _bar_with_interval(plot: Plot, left: float, width: float, found: Block, fill: str, title: str) -> None:
    value, low, high = found["value"], found["low"], found["high"]
    y, middle = plot.y(value), left + width / 2
    title = f"{title}: {100 * value:.1f}% [{100 * low:.1f}, {100 * high:.1f}], n = {found['n']}"
    plot.rect(left, y, width, plot.bottom - y, fill, title=title)
    plot.line((middle, plot.y(low)), (middle, plot.y(high)), "ink", 1.2)
    plot.text((middle, plot.y(high) - 4), percent(value), 10, "ink", text_anchor="middle")


def nrn_histogram(
    other: str, arm: str, nrn: Floats, nulls: Mapping[str, Floats], nrn_range: tuple[float, float], fill: str
) -> str:
    """Histogram of NRN over live features, share on a logarithmic axis; nulls as outlines."""
    lowest = 0.5 / max([len(nrn), *(len(null) for null in nulls.values()), 1])
    size = (330.0, 230.0)
    plot = Plot(size, f"NRN of {other} and {arm}", (0, 1), (lowest, 1), (12, 12, 50, 48), log_y=True)
    left, right = plot.x(nrn_range[0]), plot.x(nrn_range[1])
    plot.rect(left, plot.top, right - left, plot.bottom - plot.top, "panel")
    plot.y_axis(decades(lowest, 1), lambda v: f"{100 * v:g}%", "share of live features (log)")
    share = np.histogram(nrn, _BINS)[0] / max(len(nrn), 1)
    for low, high, value in zip(_BINS[:-1], _BINS[1:], share, strict=True):
        if value > 0:
            x, y = plot.x(low), plot.y(value)
            title = f"NRN {low:.2f} to {high:.2f}: {100 * value:.2f}% of {len(nrn)}"
            plot.rect(x + 0.3, y, plot.x(high) - x - 0.6, plot.bottom - y, fill, title=title)
    for index, null in enumerate(nulls.values()):
        outline = np.histogram(null, _BINS)[0] / max(len(null), 1)
        heights = [plot.y(value) if value > 0 else plot.bottom for value in outline]
        steps = zip(np.repeat([plot.x(edge) for edge in _BINS], 2)[1:-1], np.repeat(heights, 2), strict=True)
        plot.path(steps, "ink", 1.1, stroke_dasharray=None if index == 0 else "3 2")
    plot.x_axis([0, 0.2, 0.4, 0.6, 0.8, 1], lambda v: f"{v:g}")
    for at, anchor, name in ((0.0, "start", f"{other} only"), (0.5, "middle", "shared"), (1.0, "end", f"{arm} only")):
        plot.text((plot.x(at), plot.height - 16), name, 11, "ink", text_anchor=anchor)
    plot.text((plot.x(0.5), plot.height - 2), "NRN", text_anchor="middle")
    return plot.svg()


_CORNERS = ((40.0, 272.0), (320.0, 272.0), (180.0, 272.0 - 140.0 * math.sqrt(3)))


def mas_ternary(corners: Sequence[str], table: pd.DataFrame, specific_above: float, colours: Mapping[str, str]) -> str:
    """Every live feature of a three-model crosscoder by its MAS: a corner is one model's own feature.

    `table` has columns mas_<model> (shares that sum to 1), owner and specific.
    """
    canvas = Canvas(360.0, 310.0, f"MAS of {', '.join(corners)}")
    outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in _CORNERS)
    canvas.add("polygon", points=outline, fill=colour("panel"), stroke=colour("grid"))
    for index, corner in enumerate(corners):
        for level in (0.2, 0.4, 0.6, 0.8):
            canvas.line(*_level(index, level))
        canvas.line(*_level(index, specific_above), colours[corner], 1, "4 3")
    mas = table[[f"mas_{corner}" for corner in corners]].to_numpy(np.float64)
    own = table["specific"].to_numpy(bool)
    canvas.dots((_ternary(row) for row in mas[~own]), "soft", 3, stroke_opacity=0.35)
    sides = ((20, "start", -26), (20, "end", 26), (-10, "middle", 0))
    for corner, (x, y), (down, anchor, aside) in zip(corners, _CORNERS, sides, strict=True):
        chosen = own & (table["owner"] == corner).to_numpy(bool)
        canvas.dots((_ternary(row) for row in mas[chosen]), colours[corner], 6.5, stroke_opacity=0.9)
        label = f"{corner}: {int(chosen.sum())} specific"
        canvas.text((x + aside, y + down), label, 12, colours[corner], text_anchor=anchor, font_weight=600)
    return canvas.svg()


def _ternary(shares: Sequence[float] | Floats) -> Point:
    pairs = list(zip(shares, _CORNERS, strict=True))
    return sum(share * x for share, (x, _) in pairs), sum(share * y for share, (_, y) in pairs)


def _level(corner: int, share: float) -> tuple[Point, Point]:
    """Ends of the line on which one corner's share is constant."""
    first, second = [0.0] * 3, [0.0] * 3
    first[corner] = second[corner] = share
    first[(corner + 1) % 3] = second[(corner + 2) % 3] = 1 - share
    return _ternary(first), _ternary(second)


def overlap_matrix(names: Sequence[str], found: Block, key: str, fill: str) -> str:
    """Overlap of the top features between checkpoints, with the split-half null marked on the colour bar.

    `found` has the overlaps under `key`, their 95% intervals under `<key>_low` and `<key>_high`, and the `null`.
    """
    cell, left, top = 38.0, 60.0, 8.0
    side = cell * len(names)
    canvas = Canvas(left + side + 74, top + side + 26, "Overlap of the top features between checkpoints")
    for i, (name, row) in enumerate(zip(names, found[key], strict=True)):
        y = top + i * cell
        canvas.text((left - 6, y + cell / 2 + 4), name, text_anchor="end")
        canvas.text((left + (i + 0.5) * cell, top + side + 15), name, text_anchor="middle")
        for j, value in enumerate(row):
            x = left + j * cell
            low, high = found[f"{key}_low"][i][j], found[f"{key}_high"][i][j]
            title = f"{name} and {names[j]}: {value:.2f} [{low:.2f}, {high:.2f}]"
            canvas.rect(x + 1, y + 1, cell - 2, cell - 2, fill, title, fill_opacity=0.06 + 0.94 * value, rx=2)
            ink = "paper" if value > 0.6 else "ink"
            canvas.text((x + cell / 2, y + cell / 2 + 4), f"{value:.2f}", 11, ink, text_anchor="middle")
    _colour_bar(canvas, left + side + 14, top, side, found["null"], fill)
    return canvas.svg()


def _colour_bar(canvas: Canvas, x: float, top: float, height: float, null: Block, fill: str) -> None:
    steps = 24
    for step in range(steps):
        share = (step + 0.5) / steps
        canvas.rect(x, top + height * (1 - (step + 1) / steps), 10, height / steps + 0.3, fill, fill_opacity=share)
    low, high, mean = (top + height * (1 - null[key]) for key in ("low", "high", "mean"))
    for value in (0.0, 0.5, 1.0):
        y = top + height * (1 - value) + (8 if value == 1 else 0)
        if abs(y - mean) > 12:  # the null's name stands there
            canvas.text((x + 14, y), f"{value:g}", 10)
    canvas.rect(x - 4, high, 18, max(low - high, 1.5), "paper", fill_opacity=0, stroke=colour("ink"))
    canvas.line((x - 4, mean), (x + 14, mean), "ink", 2)
    canvas.text((x + 18, mean + 3.5), "null", 11, "ink", font_weight=600)


def against_sparsity(label: str, fits: Sequence[Block], key: str, colours: Mapping[str, str]) -> str:
    """What every fit of a crosscoder explains, by its L0: one dot a fit and model, rings around the first fit's.

    `fits` have `name`, `l0` and, under `key`, a share by model.
    """
    l0 = [max(fit["l0"], 1e-3) for fit in fits]
    values = [value for fit in fits for value in fit[key].values()]
    low = min(0.0, *values) if min(values) < 0 else max(0.0, min(values) - 0.05)
    plot = Plot((330, 220), f"{label} by L0", (min(l0) / 1.3, max(l0) * 1.3), (low, 1), (12, 12, 36, 48), log_x=True)
    plot.y_axis(ticks(low, 1, 5), lambda v: f"{v:g}", label)
    for index, (fit, x) in enumerate(zip(fits, l0, strict=True)):
        for model, value in fit[key].items():
            title, fill = f"{fit['name']}, {model}: {label} {value:.3f} at L0 {fit['l0']:.1f}", colour(colours[model])
            at = {"cx": plot.x(x), "cy": plot.y(value)}
            plot.add("circle", None, title, **at, r=4.2, fill=fill, fill_opacity=0.75)
            if index == 0:
                plot.add("circle", **at, r=7, fill="none", stroke=colour("ink"), stroke_width=1.2)
    marks = [mark for mark in (0.1, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if min(l0) / 1.3 <= mark <= max(l0) * 1.3]
    plot.x_axis(marks, lambda v: f"{v:g}", "L0, active features a token (log)")
    return plot.svg()


def firing_rates(edges: Sequence[float], counts: Sequence[int], label: str) -> str:
    """Histogram of firing rates, as the diagnostics binned them (bins are equally wide on the panel)."""
    plot = Plot((330, 150), f"Firing rates of {label}", (0, len(counts)), (0, max([*counts, 1])), (10, 10, 34, 44))
    plot.y_axis(ticks(0, max([*counts, 1]), 3), lambda v: f"{v:g}")
    for index, count in enumerate(counts):
        x, y = plot.x(index), plot.y(count)
        title = f"{edges[index]:.2g} to {edges[index + 1]:.2g}: {count} features"
        plot.rect(x + 0.5, y, plot.x(index + 1) - x - 1, plot.bottom - y, "soft", title=title)
    every = max(1, len(edges) // 5)
    marks = list(range(0, len(edges), every))
    plot.x_axis(marks, lambda v: f"{edges[int(v)]:.0e}".replace("e-0", "e-").replace("e+00", ""), "firing rate")
    return plot.svg()
