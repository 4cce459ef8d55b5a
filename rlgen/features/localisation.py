"""The features behind "base wrong, arm right" (METHOD: localisation)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlgen.crosscoder.model import Crosscoder
from rlgen.data.tasks import read_items
from rlgen.errors import StudyError
from rlgen.features.attribution import read_features
from rlgen.features.reading import MODELS, Reader
from rlgen.features.resampling import bootstrap, permutation_null
from rlgen.features.scores import Floats, ItemValues, threshold_curve
from rlgen.features.values import Rows, candidates, patched_items, patched_values, read_values
from rlgen.models import device
from rlgen.stage import atomic_path, derive_seed, stage, write_json
from rlgen.study.stages import LocaliseSettings


def localise(
    settings: LocaliseSettings,
    *,
    crosscoder: Path,
    models: dict[str, Path],
    evaluations: dict[str, Path],
    tasks: list[Path],
    diagnostics: Path,
    out: Path,
) -> None:
    """Write the features of highest Score on the transfer tasks' selection items: scores.parquet, localisation.json.

    `models` and `evaluations` are those of `base` and `arm`. Without a feature that passes on every task the list is
    empty and the reason is given. Raises StudyError if an evaluation lacks a task or an item.
    """
    inputs = {
        "crosscoder": crosscoder,
        "diagnostics": diagnostics,
        **{f"model {name}": models[name] for name in MODELS},
        **{f"evaluation {name}": evaluations[name] for name in MODELS},
        **{f"task {path.name}": path for path in tasks},
    }
    with stage("localise", settings, inputs, out) as work:
        answers = {name: _answers(evaluations[name]) for name in MODELS}
        transfer = {path.name: path for path in tasks if path.name in settings.transfer}
        items = {task: [str(row["id"]) for row in read_items(path)] for task, path in transfer.items()}
        halves = {task: split_items(names, task, settings) for task, names in items.items()}
        coder = Crosscoder.from_pretrained(crosscoder).to(device()).eval()
        selection = {task: half[0] for task, half in halves.items()}
        labels = {task: wrong_then_right(answers, task, items) for task, items in selection.items()}
        alive_F = read_features(diagnostics)["firing_rate"].to_numpy() > 0
        reader = Reader(work, settings.localisation, coder, models, answers, selection)
        seen = reader.read()
        by_score = _score(settings, reader, coder, seen, selection, labels, alive_F)
        found = _describe(settings, by_score) | {
            "layer": coder.config.layer,
            "selection_items": selection,
            "measurement_items": {task: half[1] for task, half in halves.items()},
        }
        with atomic_path(work.folder / "scores.parquet") as path:
            _table(settings, by_score, seen, labels).to_parquet(path, index=False)
        write_json(work.folder / "localisation.json", found)


def split_items(items: list[str], task: str, settings: LocaliseSettings) -> tuple[list[str], list[str]]:
    """Items to select on and items to measure on, apart; which is which follows from the seed and the item's id."""
    order = sorted(items, key=lambda item: derive_seed(settings.seed, "localise", "split", task, item))
    chosen = set(order[: round(settings.localisation.selection * len(items))])
    return [item for item in items if item in chosen], [item for item in items if item not in chosen]


def wrong_then_right(answers: dict[str, pd.DataFrame], task: str, items: list[str]) -> NDArray[np.bool_]:
    """Which of the items base gets wrong and the arm right; right is right in at least half of the samples."""
    right = {}
    for name, frame in answers.items():
        share = frame[frame["task"] == task].groupby("item")["right"].mean()
        missing = [item for item in items if item not in share.index]
        if missing:
            raise StudyError(f"evaluation of `{name}`: no answer to {task}/{missing[0]}; run its rule `evaluate` again")
        right[name] = share.loc[items].to_numpy() >= 0.5
    return ~right["base"] & right["arm"]


def _answers(evaluation: Path) -> pd.DataFrame:
    frame = pd.read_parquet(evaluation / "items.parquet")
    return frame.assign(item=frame["item"].astype(str))


def _score(
    settings: LocaliseSettings,
    reader: Reader,
    coder: Crosscoder,
    seen: dict[str, dict[str, Floats]],
    selection: dict[str, list[str]],
    labels: dict[str, NDArray[np.bool_]],
    alive_F: NDArray[np.bool_],
) -> dict[str, ItemValues]:
    """Every score, the measured one last: it is of the features that the others put forward, and of some items."""
    rule = settings.localisation
    by_score = read_values(Rows.of(coder, rule.arm), seen, labels, alive_F)
    features = candidates(by_score, rule.candidates)
    chosen = {
        task: patched_items(items, labels[task], rule.patched_items, settings.seed, task)
        for task, items in selection.items()
    }
    effects = reader.patch(seen, chosen, features)
    return by_score | {"delta_patching": patched_values(effects, chosen, features, by_score["attribution"])}


def _table(
    settings: LocaliseSettings,
    by_score: dict[str, ItemValues],
    seen: dict[str, dict[str, Floats]],
    labels: dict[str, NDArray[np.bool_]],
) -> pd.DataFrame:
    """One row a task and feature: every score, the one that counts, and the mean codes on the task's items.

    A score that was not measured is nan; of a feature that is dead, it is 0.
    """
    measured_F = by_score["delta_patching"].alive_F | ~by_score["attribution"].alive_F
    frames = []
    for index, (task, found) in enumerate(seen.items()):
        chosen = labels[task]
        columns = {name: of.scores.score_TF[index] for name, of in by_score.items()}
        columns["delta_patching"] = np.where(measured_F, columns["delta_patching"], np.nan)
        columns["score"] = columns[settings.localisation.score]
        for name in MODELS:
            columns[f"mean_code_{name}"] = found[name][chosen].mean(axis=0) if chosen.any() else 0.0 * found[name][0]
        frames.append(pd.DataFrame({"feature": np.arange(found["base"].shape[1]), "task": task, **columns}))
    return pd.concat(frames, ignore_index=True)


def _describe(settings: LocaliseSettings, by_score: dict[str, ItemValues]) -> dict[str, Any]:
    rule = settings.localisation
    chosen = by_score[rule.score]
    scores, kept_TF = chosen.scores, chosen.scores.kept(rule.threshold)
    features = scores.ranked(rule.threshold)[: rule.top]
    nulls, resampled = _nulls(settings, by_score), _bootstraps(settings, by_score)
    patched = by_score["delta_patching"]
    return {
        "arm": rule.arm,
        "tokens": rule.tokens,
        "codes": rule.codes,
        "score": rule.score,
        "threshold": rule.threshold,
        "features": features.tolist(),
        "strength": scores.strength[features].tolist(),
        "by_score": {name: of.scores.ranked(rule.threshold)[: rule.top].tolist() for name, of in by_score.items()},
        "by_score_null": {
            name: {
                "p": nulls[name]["strength"]["p"],
                "null_overlap": nulls[name]["overlap"]["mean"],
                "bootstrap_overlap": resampled[name]["overlap"]["mean"],
            }
            for name in by_score
        },
        "patched": {
            "features": int(patched.alive_F.sum()),
            "items": {task: len(label_I) for task, label_I in patched.labels.items()},
        },
        "reason": _reason(chosen, rule.threshold),
        "passed_everywhere": int(scores.everywhere(rule.threshold).sum()),
        "per_task": {
            task: {
                "n_items": int(chosen.labels[task].sum()),
                "n_selection": len(chosen.labels[task]),
                "kept": int(kept_TF[index].sum()),
                "maximum": float(scores.score_TF[index].max()),
                "minimum": float(scores.score_TF[index].min()),
            }
            for index, task in enumerate(chosen.tasks)
        },
        "threshold_curve": threshold_curve(scores),
        "null": nulls[rule.score],
        "bootstrap": resampled[rule.score],
    }


def _nulls(settings: LocaliseSettings, by_score: dict[str, ItemValues]) -> dict[str, dict[str, Any]]:
    rule, seed = settings.localisation, derive_seed(settings.seed, "localise", "permutations")
    return {
        name: permutation_null(of, rule.threshold, rule.top, rule.permutations, np.random.default_rng(seed))
        for name, of in by_score.items()
    }


def _bootstraps(settings: LocaliseSettings, by_score: dict[str, ItemValues]) -> dict[str, dict[str, Any]]:
    rule, seed = settings.localisation, derive_seed(settings.seed, "localise", "bootstrap")
    return {
        name: bootstrap(of, rule.threshold, rule.top, rule.bootstrap, np.random.default_rng(seed))
        for name, of in by_score.items()
    }


def _reason(values: ItemValues, threshold: float | None) -> str | None:
    """Why the list is empty or rests on fewer tasks; None if all is as it should be."""
    without = [task for task in values.tasks if not values.labels[task].any()]
    if len(without) == len(values.tasks):
        return "on no transfer task has base an item wrong that the arm has right"
    if not values.scores.everywhere(threshold).any():
        rule = "has a positive mean score" if threshold is None else f"exceeds {threshold:g} of the maximum everywhere"
        return f"no feature {rule}, over the transfer tasks that have such items"
    if without:
        return f"{', '.join(without)}: no item that base has wrong and the arm right; left out of the intersection"
    return None
