"""The page: one HTML file without outside links, drawn from `summary.json` and the artifacts' Parquet tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rlgen.paths import Layout
from rlgen.report import causal, words
from rlgen.report.figures import model_colours
from rlgen.report.panels import Panels, draw, effect_rows
from rlgen.report.paper import ACCURACY, INTERVENTIONS, paper_task
from rlgen.report.summary import NULLS, read_summary
from rlgen.report.svg import DARK, LIGHT, standalone
from rlgen.stage import stage
from rlgen.study.sections import Report
from rlgen.study.stages import ReportSettings

TITLE = "What post-training changed"
"""Of a study that trains no arm and has no title of its own: the usual one is a claim about training."""
SAMPLES = 2
"""Items shown for each task."""
LONGEST = 600
"""Characters shown of a prompt or an answer."""


def make_report(settings: ReportSettings, *, summary: Path, root: Path, out: Path) -> None:
    """Write the page, `index.html`, and each of its panels as an SVG file, `figures/<name>.svg`.

    Numbers come from the summary; the tables under `root` that it names are drawn from. Raises StudyError if the
    summary or one of them is missing.
    """
    found = read_summary(summary)
    paths = Layout(root)
    with stage("report", settings, {"summary": summary, **_inputs(found, paths)}, out) as work:
        panels = draw(found, paths)
        folder = work.folder / "figures"
        folder.mkdir(exist_ok=True)
        for panel in (panel for section in panels.values() for panel in section):
            (folder / f"{panel.name}.svg").write_text(standalone(panel.svg))
        (work.folder / "index.html").write_text(render(settings, found, panels, samples(found, paths)))


def render(settings: ReportSettings, summary: Mapping[str, Any], panels: Panels, samples: list[dict[str, Any]]) -> str:
    """The page as text. Everything that is not the page's own markup is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = (words.share, words.points, words.number, words.probability, words.interval, words.quantity)
    filters = (*numbers, words.listed, causal.duration)
    environment.filters.update({form.__name__: form for form in filters})
    environment.filters["svg"] = Markup  # drawn here, and escaped while it was drawn
    environment.filters["compact"] = lambda value: json.dumps(value, sort_keys=True)
    usual = settings.report.title == Report.model_fields["title"].default
    here = words.trained_here(summary)
    return environment.get_template("page.html.j2").render(
        report=settings.report,
        title=TITLE if usual and not here else settings.report.title,
        summary=summary,
        panels=panels,
        samples=samples,
        alarms=words.alarms(summary),
        idle=words.idle(summary),
        zero_steps=words.zero_steps(summary),
        precision=words.precision(summary),
        trained_here=here,
        edits_told=words.edits_told(summary),
        verdict=words.verdict(summary),
        headline=words.headline(summary),
        colours=model_colours(summary["arms"]),
        schemes={"light": LIGHT, "dark": DARK},
        groups=words.groups(summary),
        paper=paper_rows(summary),
        paper_accuracy=ACCURACY,
        effects={edit: _effect_table(summary, edit) for edit in summary["interventions"]},
        apart=words.apart,
        again=_found_again,
    )


def samples(summary: Mapping[str, Any], paths: Layout) -> list[dict[str, Any]]:
    """A few items of each task with every model's first answer; where it can, items on which models differ."""
    tables = []
    for model in summary["models"]:
        table = pd.read_parquet(paths.evaluation(model) / "items.parquet")
        tables.append(table[table["sample"] == table["sample"].min()].assign(model=model))
    items = pd.concat(tables)
    found = []
    for task in (task for tasks in summary["tasks"].values() for task in tasks):
        here = items[items["task"] == task]
        differs = here.groupby("item", sort=True)["right"].nunique().sort_values(ascending=False, kind="stable")
        for item in differs.index[:SAMPLES]:
            rows = here[here["item"] == item].set_index("model")
            responses = zip(rows.index, rows["right"], rows["response"], strict=True)
            answers = {model: {"right": bool(right), "response": _cut(text)} for model, right, text in responses}
            asked = {"prompt": _cut(rows["prompt"].iloc[0]), "gold": _cut(rows["gold"].iloc[0])}
            found.append({"task": task, "item": item, **asked, "answers": answers})
    return found


def paper_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The study's accuracies beside the paper's, one row a task of that name and model of that method."""
    methods = {"base": "base", **summary["arms"]}
    rows = []
    for task in (task for tasks in summary["tasks"].values() for task in tasks):
        name = paper_task(task)
        for model, method in methods.items():
            theirs = {p: table.get(method, {}).get(name or "") for p, table in ACCURACY.items()}
            if any(value is not None for value in theirs.values()):
                ours = summary["accuracy"][model][task]
                rows.append({"task": task, "paper_task": name, "model": model, "ours": ours, "theirs": theirs})
    return rows


def _effect_table(summary: Mapping[str, Any], edit: str) -> list[dict[str, Any]]:
    block, theirs = summary["interventions"][edit], INTERVENTIONS.get(edit, {})
    return [
        {"label": label, "block": row, "task": task, "paper": theirs.get(paper_task(task or "") or "")}
        for label, row, task in effect_rows(summary, block)
    ]


def _found_again(fit: Mapping[str, Any], which: str) -> float | None:
    """Share of a fit's live (`all`) or `specific` features that other seeds find again."""
    found = fit.get("stability", {}).get(which)
    return found["found_again"] / found["features"] if found and found["features"] else None


def _inputs(summary: Mapping[str, Any], paths: Layout) -> dict[str, Path]:
    """The artifacts that panels and samples are drawn from."""
    inputs = {f"evaluation {model}": paths.evaluation(model) for model in summary["models"]}
    names = [*summary["crosscoders"], *(name for key, name in NULLS.items() if key in summary["nulls"])]
    inputs |= {f"attribution {name}": paths.attribution(name) for name in names}
    if summary["localisation"]:
        inputs["localisation"] = paths.localisation(summary["localisation"]["crosscoder"])
    return inputs


def _cut(text: object) -> str:
    shown = text if isinstance(text, str) else words.NOTHING
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} … ({len(shown) - LONGEST} more characters)"
