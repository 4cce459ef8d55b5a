"""`summary.json`: every number of the report, by name, gathered from a study's artifacts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rlgen.errors import StudyError
from rlgen.formats import check_mixture
from rlgen.paths import Layout
from rlgen.report.comparison import compare, compare_localised
from rlgen.report.contrasts import contrasts, group_accuracy, paired_tests
from rlgen.report.findings import findings
from rlgen.report.jobs import cost, find_jobs
from rlgen.report.training import training
from rlgen.report.verdicts import verdicts
from rlgen.source import code_digest
from rlgen.stage import read_manifest, write_json
from rlgen.study.sections import Attribution, Localisation
from rlgen.study.stages import SummarySettings
from rlgen.study.study import BASE, EDITS, NOISE_NULL, NULL

NULLS = {"base_base": NULL, "base_noise": NOISE_NULL}
GROUPS = ("train_domain", "transfer", "unseen")


def summarise(settings: SummarySettings, root: Path, out: Path) -> None:
    """Write every number of the report to the file `out`.

    Reads the artifacts under `root`. Tracking, localisation with its interventions, and nulls may be left out of a
    study; what the settings name must be there, or a StudyError says which file is missing. Another says so if models
    were evaluated by versions that must not be mixed.
    """
    paths = Layout(root)
    check_mixture(map(paths.evaluation, settings.models))
    items = {model: _items(paths, model) for model in settings.models}
    crosscoders = {name: _crosscoder(paths, name, models) for name, models in settings.crosscoders.items()}
    summary: dict[str, Any] = {
        "study": settings.study,
        "seed": settings.seed,
        "tasks": settings.groups,
        "models": settings.models,
        "arms": settings.arms,
        "problems": _problems(paths, settings.taught) if settings.problems else None,
        "training": training(paths, settings.arms),
        "accuracy": {model: read_json(paths.evaluation(model) / "accuracy.json") for model in settings.models},
        **_precision(paths, settings.models),
        "group_accuracy": group_accuracy(items, settings.groups),
        "contrasts": contrasts(items, BASE, settings.groups),
        "paired": paired_tests(items, settings.groups),
        "crosscoders": {name: c for name, c in crosscoders.items() if name not in NULLS.values()},
        "variants": {
            name: compare(paths, fits, [_crosscoder(paths, fit, settings.crosscoders[name]) for fit in fits])
            for name, fits in settings.variants.items()
        },
        "tracking": {name: read_json(paths.tracking(name) / "tracking.json") for name in settings.tracked},
        "fits": _fits(paths, settings),
        "localisation": _localisation(paths, settings.localised[0]) if settings.localised else None,
        "interventions": _interventions(paths, settings) if settings.localised else {},
        "unmeasured": _unmeasured(paths, settings),
        "comparison": read_json(paths.comparison(settings.localised[0]) / "comparison.json")
        if settings.oracle
        else None,
        "nulls": _nulls(crosscoders) | _edited_null(paths, settings),
        **cost(find_jobs(settings, paths)),
    }
    summary = plain(summary)
    summary["findings"] = findings(summary)
    summary["verdicts"] = verdicts(summary)
    summary["manifest"] = {"settings": json.loads(settings.canonical()), "code": code_digest("summary")}
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
    summary = {"precision": {}, "batch_dependence": {}, "unmeasured": [], **summary}  # what older ones lack
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


def _edited_null(paths: Layout, settings: SummarySettings) -> dict[str, Any]:
    """The edit at features localised for base's noised copy: it must do no more than matched sets do."""
    for edit in settings.edits.get(NOISE_NULL, []):
        effects = _effects(paths, NOISE_NULL, edit)
        if effects is not None:
            matched = effects["matched_random"]
            beyond = effects["low"] > 0 and effects["effect"] > matched["q95"]
            return {"interventions": {**_short(effects), "edit": edit, "passed": not beyond}}
    return {}


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


def _precision(paths: Layout, models: list[str]) -> dict[str, Any]:
    """By model, the precision that it ran in, and how many answers depend on their batch where that was measured.

    Evaluations that older versions made do not say.
    """
    manifests = {model: read_manifest(paths.evaluation(model)) for model in models}
    found: dict[str, Any] = {}
    for key in ("precision", "batch_dependence"):
        found[key] = {model: manifest[key] for model, manifest in manifests.items() if key in manifest}
    return found


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


def _fits(paths: Layout, settings: SummarySettings) -> list[dict[str, Any]]:
    """The fits whose features were localised, side by side."""
    tested = [fit for fit in settings.localised if fit != NOISE_NULL]
    if not tested:
        return []
    made = settings.edits[tested[0]]
    main = next((edit for edit in ("transplant", "amplify", "scale") if edit in made), None)
    return compare_localised(paths, {fit: _crosscoder(paths, fit, []) for fit in tested}, main)


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


def _interventions(paths: Layout, settings: SummarySettings) -> dict[str, Any]:
    """Each kind of edit's effects: at the top the mean over transfer tasks, then the other groups and every task.

    Those of the study's own fit, and under `fits` the same of every fit. An edit that was measured on no item of a
    transfer task is left out.
    """
    found: dict[str, Any] = {}
    for fit in (fit for fit in settings.localised if fit != NOISE_NULL):
        for edit in settings.edits[fit]:
            effects = _effects(paths, fit, edit)
            if effects is not None:
                found.setdefault(edit, {**effects, "fits": []})["fits"].append(_short(effects))
    return found


def _unmeasured(paths: Layout, settings: SummarySettings) -> list[str]:
    """Return the edits with the features of the study's own fit that no item of a transfer task measures."""
    own = settings.localised[:1]
    return [edit for fit in own for edit in settings.edits[fit] if _effects(paths, fit, edit) is None]


def _effects(paths: Layout, fit: str, edit: str) -> dict[str, Any] | None:
    effects = read_json(paths.intervention(fit, edit) / "effects.json")
    groups, turned = effects.pop("groups"), effects.pop("turned")
    if groups["transfer"] is None:
        return None
    rest = {group: groups[group] for group in ("unseen", "train_domain")}
    norm = read_manifest(paths.intervention(fit, edit))["settings"]["edit"].get("norm")
    likeness = {f"{turned['transfer']['towards']}_likeness": turned["transfer"]} if turned["transfer"] else {}
    return {**effects, "norm": norm, **groups["transfer"], **rest, **likeness, "turned": turned}


def _short(effects: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared between fits: the effects on transfer and unseen tasks, without their draws."""
    kept = ("crosscoder", "layer", "features", "effect", "low", "high", "n", "baseline", "donor", "ceiling")
    blocks = {key: effects[key] for key in (*kept, "of_ceiling", "encode_decode", "matched_random", "unseen", "turned")}
    blocks |= {key: effects[key] for key in ("alpha", "shift_norm") if key in effects}
    short: dict[str, Any] = plain(blocks)
    return short


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
