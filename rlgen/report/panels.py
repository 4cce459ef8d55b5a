"""Which panels the page has: figures drawn from the summary and from the artifacts' Parquet tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rlgen.paths import Layout
from rlgen.report import causal, figures, words
from rlgen.report.summary import NULLS
from rlgen.report.training import CURVES
from rlgen.study.study import BASE


@dataclass(frozen=True)
class Panel:
    """One drawn panel: the file name it is also written under, its title, its SVG."""

    name: str
    title: str
    svg: str


Panels = dict[str, list[Panel]]


def draw(summary: Mapping[str, Any], paths: Layout) -> Panels:
    """All panels by section of the page; a section whose part the study leaves out has none."""
    colours = figures.model_colours(summary["arms"])
    return {
        "training": list(_training(summary, colours)),
        "accuracy": list(_accuracy(summary, colours)),
        "nrn": list(_nrn(summary, paths, colours)),
        "mas": list(_mas(summary, paths, colours)),
        "tracking": list(_tracking(summary, colours)),
        "localisation": list(_localisation(summary, paths, colours)),
        "interventions": list(_interventions(summary, colours)),
        "firing": list(_firing(summary)),
        "variants": list(_variants(summary, colours)),
        "cost": [Panel("wall-time", "Wall time by stage", causal.wall_bars(summary["wall_seconds"]))],
    }


def _training(summary: Mapping[str, Any], colours: dict[str, str]) -> Iterator[Panel]:
    for column, label in CURVES.items():
        curves = {arm: block["curves"].get(column) for arm, block in summary["training"].items()}
        drawn = {arm: curve for arm, curve in curves.items() if curve and curve["steps"]}
        if drawn:
            name = column.replace("/", "-").replace("_", "-")
            yield Panel(f"training-{name}", label[0].upper() + label[1:], figures.curves(label, drawn, colours))


def _accuracy(summary: Mapping[str, Any], colours: dict[str, str]) -> Iterator[Panel]:
    names = words.groups(summary)
    for group, tasks in summary["tasks"].items():
        if tasks:
            svg = figures.accuracy_bars(names[group], tasks, summary["models"], summary["accuracy"], colours)
            yield Panel(f"accuracy-{group}", f"{names[group].capitalize()} tasks", svg)


def _features(paths: Layout, crosscoder: str) -> pd.DataFrame:
    return pd.read_parquet(paths.attribution(crosscoder) / "features.parquet")


def _nrn(summary: Mapping[str, Any], paths: Layout, colours: dict[str, str]) -> Iterator[Panel]:
    nulls: dict[str, figures.Floats] = {}
    for key, name in NULLS.items():
        if key in summary["nulls"]:
            nulls[key] = _features(paths, name)["nrn"].dropna().to_numpy(np.float64)
    for name, crosscoder in summary["crosscoders"].items():
        if len(crosscoder["models"]) == 2:
            other, arm = sorted(crosscoder["models"], key=lambda model: model != BASE)
            values = _features(paths, name)["nrn"].dropna().to_numpy(np.float64)
            low, high = crosscoder["nrn_range"]
            svg = figures.nrn_histogram(other, arm, values, nulls, (low, high), colours[arm])
            yield Panel(f"nrn-{name}", f"{name}: {len(values)} live features", svg)


def _mas(summary: Mapping[str, Any], paths: Layout, colours: dict[str, str]) -> Iterator[Panel]:
    for name, crosscoder in summary["crosscoders"].items():
        if len(crosscoder["models"]) == 3:
            table = _features(paths, name)
            alive = table[table[f"mas_{crosscoder['models'][0]}"].notna()]
            svg = figures.mas_ternary(crosscoder["models"], alive, crosscoder["specific_above"], colours)
            yield Panel(f"mas-{name}", f"{name}: {len(alive)} live features", svg)


def _tracking(summary: Mapping[str, Any], colours: dict[str, str]) -> Iterator[Panel]:
    for name, tracked in summary["tracking"].items():
        fill = colours[tracked["arm"]]
        names = [c.rpartition("@")[2] if "@" in c else "final" for c in tracked["checkpoints"]]
        for key, label in (("overlap", "same tokens"), ("overlap_across_halves", "across two halves of the tokens")):
            svg = figures.overlap_matrix(names, tracked, key, fill)
            yield Panel(f"{key}-{name}".replace("_", "-"), f"{tracked['arm']}, {label}", svg)
        svg = figures.overlap_matrix(names, tracked["swap_readout"], "overlap", fill)
        yield Panel(f"swap-overlap-{name}", f"{tracked['arm']}, by swap readout", svg)


def _localisation(summary: Mapping[str, Any], paths: Layout, colours: dict[str, str]) -> Iterator[Panel]:
    found = summary["localisation"]
    if found is None:
        return
    fill = colours[found["arm"]]
    scores = pd.read_parquet(paths.localisation(found["crosscoder"]) / "scores.parquet")
    for task in summary["tasks"]["transfer"]:
        chosen = scores[scores["task"] == task]
        svg = causal.score_plot(task, chosen, found["features"], found["threshold"], fill)
        yield Panel(f"score-{task}", f"{task}: {found['per_task'][task]['n_items']} items", svg)
    svg = causal.threshold_curve(found["threshold_curve"], found["threshold"], found["null"]["kept"])
    yield Panel("threshold-curve", "All transfer tasks together", svg)


def effect_rows(summary: Mapping[str, Any], block: Mapping[str, Any]) -> list[causal.Row]:
    """An edit's effects as the page lists them: each group's mean, then its tasks."""
    rows: list[causal.Row] = []
    names = words.groups(summary)
    for group in ("transfer", "unseen", "train_domain"):
        tasks = [task for task in summary["tasks"][group] if task in block["tasks"]]
        mean = block if group == "transfer" else block[group]
        if mean is not None and len(tasks) > 1:
            rows.append((f"{names[group]}, mean", mean, None))
        alone = f", {names[group]}" if len(tasks) == 1 else ""
        rows += [(f"{task}{alone}", block["tasks"][task], task) for task in tasks]
    return rows


def _interventions(summary: Mapping[str, Any], colours: dict[str, str]) -> Iterator[Panel]:
    for edit, block in summary["interventions"].items():
        title = f"{edit.capitalize()} in {block['model']}"
        svg = causal.intervention_forest(title, effect_rows(summary, block), colours[summary["localisation"]["arm"]])
        yield Panel(edit, title, svg)


def _variants(summary: Mapping[str, Any], colours: dict[str, str]) -> Iterator[Panel]:
    for name, fits in summary["variants"].items():
        if all(fit["differs"].keys() <= {"seed"} for fit in fits):
            continue  # all in one spot
        for key, label in (("fve", "FVE"), ("delta_fve", "delta-FVE")):
            if any(fit[key] for fit in fits):
                svg = figures.against_sparsity(label, fits, key, colours)
                yield Panel(f"{key}-{name}".replace("_", "-"), f"{name}: {label}", svg)


def _firing(summary: Mapping[str, Any]) -> Iterator[Panel]:
    for name, crosscoder in summary["crosscoders"].items():
        rates = crosscoder["firing_rate_histogram"]
        yield Panel(f"firing-{name}", name, figures.firing_rates(rates["edges"], rates["counts"], name))
