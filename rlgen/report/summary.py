"""`summary.json`: every number of the report, by name, gathered from a study's artifacts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rlgen.errors import StudyError
from rlgen.paths import Layout
from rlgen.report.comparison import compare
from rlgen.report.contrasts import contrasts, group_accuracy, paired_tests
from rlgen.report.findings import findings
from rlgen.report.jobs import cost, find_jobs
from rlgen.report.training import training
from rlgen.stage import read_manifest, write_json
from rlgen.study.sections import Attribution, Localisation
from rlgen.study.stages import SummarySettings
from rlgen.study.study import BASE

NULLS = {"base_base": "null-base-base", "base_noise": "null-base-noise"}
GROUPS = ("train_domain", "transfer", "unseen")
EDITS = ("amplify", "ablate")


def summarise(settings: SummarySettings, root: Path, out: Path) -> None:
    """Write every number of the report to the file `out`.

    Reads the artifacts under `root`. Tracking, localisation with its interventions, and nulls may be left out of a
    study; what the settings name must be there, or a StudyError says which file is missing.
    """
    paths = Layout(root)
    items = {model: _items(paths, model) for model in settings.models}
    crosscoders = {name: _crosscoder(paths, name, models) for name, models in settings.crosscoders.items()}
    summary: dict[str, Any] = {
        "study": settings.study,
        "seed": settings.seed,
        "tasks": settings.groups,
        "models": settings.models,
        "arms": settings.arms,
        "problems": _problems(paths, settings.taught),
        "training": training(paths, settings.arms),
        "accuracy": {model: read_json(paths.evaluation(model) / "accuracy.json") for model in settings.models},
        "group_accuracy": group_accuracy(items, settings.groups),
        "contrasts": contrasts(items, BASE, settings.groups),
        "paired": paired_tests(items, settings.groups),
        "crosscoders": {name: c for name, c in crosscoders.items() if name not in NULLS.values()},
        "variants": {
            name: compare(paths, fits, [_crosscoder(paths, fit, settings.crosscoders[name]) for fit in fits])
            for name, fits in settings.variants.items()
        },
        "tracking": {name: read_json(paths.tracking(name) / "tracking.json") for name in settings.tracked},
        "localisation": _localisation(paths, settings.localised) if settings.localised else None,
        "interventions": _interventions(paths) if settings.localised else {},
        "nulls": _nulls(crosscoders),
        **cost(find_jobs(settings, paths)),
    }
    summary = plain(summary)
    summary["findings"] = findings(summary)
    write_json(out, summary)


def read_json(path: Path) -> Any:
    """An artifact's JSON file; NaN is read as it is. Raises StudyError if it is not there."""
    if not path.is_file():
        raise StudyError(f"{path}: no such file; run the rule that makes it, then the summary again")
    return json.loads(path.read_text())


def read_summary(path: Path) -> dict[str, Any]:
    """A summary, its mappings in the order of the study's lists: JSON is written with sorted keys.

    Raises StudyError if it is not there.
    """
    summary: dict[str, Any] = read_json(path)
    models = list(summary["models"])

    def width_then_models(name: str) -> tuple[int, list[int]]:
        joined = summary["crosscoders"][name]["models"]
        return len(joined), [models.index(model) for model in joined]

    orders = {
        "arms": models,
        "contrasts": models,
        "training": models,
        "tasks": list(GROUPS),
        "interventions": EDITS,
        "crosscoders": sorted(summary["crosscoders"], key=width_then_models),
        "variants": sorted(summary["variants"], key=width_then_models),
        "tracking": sorted(summary["tracking"], key=width_then_models),
        "wall_seconds": list(dict.fromkeys(job["stage"] for job in summary["jobs"])),
    }
    for key, order in orders.items():
        summary[key] = {name: summary[key][name] for name in order if name in summary[key]}
    return summary


def plain(value: Any) -> Any:
    """The value as strict JSON can hold it: what is not a finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _problems(paths: Layout, taught: bool) -> dict[str, Any]:
    """What was read, kept and left out of the training problems, and what the teacher solved of them."""
    card = read_json(paths.problems / "card.json")
    teacher = read_json(paths.solutions / "card.json") if taught else None
    found = {key: card[key] for key in ("kept", "contaminated", "sources")}
    return {**found, "teacher": teacher and {key: teacher[key] for key in teacher if key != "settings"}}


def _items(paths: Layout, model: str) -> pd.DataFrame:
    path = paths.evaluation(model) / "items.parquet"
    if not path.is_file():
        raise StudyError(f"{path}: no such file; run the rule `evaluate` for model `{model}`, then the summary again")
    return pd.read_parquet(path, columns=["task", "item", "sample", "right"])


def _crosscoder(paths: Layout, name: str, models: list[str]) -> dict[str, Any]:
    """A crosscoder's diagnostics and attribution in one place."""
    diagnostics = read_json(paths.diagnostics(name) / "diagnostics.json")
    folder = paths.attribution(name)
    attribution = read_json(folder / "attribution.json")
    settings = Attribution.model_validate(read_manifest(folder)["settings"]["attribution"])
    return {
        "models": models,
        **diagnostics,
        **attribution,
        "specific_above": settings.specific,
        "nrn_range": list(settings.nrn_range),
    }


def _localisation(paths: Layout, crosscoder: str) -> dict[str, Any]:
    folder = paths.localisation(crosscoder)
    settings = Localisation.model_validate(read_manifest(folder)["settings"]["localisation"])
    chosen = {"crosscoder": crosscoder, "arm": settings.arm, "tokens": settings.tokens, "top": settings.top}
    chosen["codes"] = settings.codes
    found = read_json(folder / "localisation.json")
    paper = found["by_score"]["code_difference"]
    beside = {"paper_features": paper, "shared_with_paper": len(set(paper) & set(found["features"]))}
    earlier: dict[str, Any] = {"score": settings.score, "by_score_null": {}}  # what older artifacts lack
    return {**earlier, **found, **chosen, **beside, "threshold": settings.threshold}


def _interventions(paths: Layout) -> dict[str, Any]:
    """Each edit's effects: at the top the mean over transfer tasks, then the other groups and every task.

    An edit that was measured on no item of a transfer task is left out.
    """
    found = {}
    for edit in EDITS:
        effects = read_json(paths.intervention(edit) / "effects.json")
        groups = effects.pop("groups")
        if groups["transfer"] is not None:
            rest = {group: groups[group] for group in ("unseen", "train_domain")}
            norm = read_manifest(paths.intervention(edit))["settings"]["edit"].get("norm")
            found[edit] = {**effects, "norm": norm, **groups["transfer"], **rest}
    return found


def _nulls(crosscoders: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What the nulls' crosscoders found, beside what the arms' did."""
    found: dict[str, Any] = {}
    for key, name in NULLS.items():
        if name in crosscoders:
            null = crosscoders[name]
            found[key] = {
                "crosscoder": name,
                "alive": null["alive"],
                "outside": null["nrn"]["outside"],
                "share_outside": null["nrn"]["share_outside"],
                "nrn": null["nrn"],
                "nrn_range": null["nrn_range"],
                "fve": null["fve"],
            }
    if "base_base" in found:
        null = found["base_base"]
        null["passed"] = null["alive"] > 0 and null["outside"] == 0  # a dead dictionary shows nothing, not a null
    if "base_noise" in found:
        pairs = {n: c for n, c in crosscoders.items() if n not in NULLS.values() and len(c["models"]) == 2}
        shares = {name: pair["nrn"]["share_outside"] for name, pair in pairs.items()}
        found["base_noise"]["share_outside_of"] = shares
    return found
