"""The features behind "base wrong, arm right" (METHOD: localisation)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.crosscoder.model import Crosscoder
from rlgen.data.tasks import read_items
from rlgen.errors import StudyError
from rlgen.features.attribution import read_features
from rlgen.features.codes import Item, item_codes
from rlgen.features.gradients import answer_gradients
from rlgen.features.refit import cached
from rlgen.features.scores import Floats, Scores, permutation_null, threshold_curve
from rlgen.models import device, load_model, load_tokenizer
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study import BASE
from rlgen.study.stages import LocaliseSettings

MODELS = ("base", "arm")
SCORES = ("code_difference", "attribution")


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
        seen = _read(work, settings, coder, models, answers, selection)
        scores = {name: _scores(name, coder, settings, seen, labels, alive_F) for name in SCORES}
        found = _describe(settings, scores) | {
            "layer": coder.config.layer,
            "selection_items": {task: half[0] for task, half in halves.items()},
            "measurement_items": {task: half[1] for task, half in halves.items()},
        }
        with atomic_path(work.folder / "scores.parquet") as path:
            _table(settings, scores, seen, labels).to_parquet(path, index=False)
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


def _read(
    work: Workspace,
    settings: LocaliseSettings,
    coder: Crosscoder,
    models: dict[str, Path],
    answers: dict[str, pd.DataFrame],
    selection: dict[str, list[str]],
) -> dict[str, dict[str, Floats]]:
    """By task: mean codes of the selection items in `base` and `arm`, [items, F], and base's `gradient` for the arm's
    answers, [items, d]. One file a task and model is one unit."""
    rule, layer = settings.localisation, coder.config.layer
    slots = {"base": coder.config.models.index(BASE), "arm": coder.config.models.index(rule.arm)}
    units = [(name, task) for name in MODELS for task in selection]
    progress = work.progress(len(units), "tasks")
    loaded: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]] = {}
    found: dict[str, dict[str, Floats]] = {task: {} for task in selection}
    for name, task in units:

        def read(name: str = name, task: str = task) -> dict[str, Floats]:
            if name not in loaded:
                loaded.clear()
                loaded[name] = load_model(models[name]), load_tokenizer(models[name])
            items = _with_answers(answers[name], task, selection[task])
            codes = item_codes(*loaded[name], coder, slots[name], items, rule.tokens)
            if name == "arm":
                return {"arm": codes.numpy()}
            theirs = _with_answers(answers["arm"], task, selection[task])
            return {
                "base": codes.numpy(),
                "gradient": answer_gradients(*loaded[name], layer, theirs, rule.tokens).numpy(),
            }

        found[task] |= cached(work.scratch / f"{name}-{task}.npz", read)
        progress.add()
    return found


def _scores(
    name: str,
    coder: Crosscoder,
    settings: LocaliseSettings,
    seen: dict[str, dict[str, Floats]],
    labels: dict[str, NDArray[np.bool_]],
    alive_F: NDArray[np.bool_],
) -> Scores:
    """One of `SCORES`. A code may be doubled and its decoder halved: code differences are ranked with its norm."""
    rows = {m: coder.decoder_rows(m).detach().double().cpu().numpy() for m in (BASE, settings.localisation.arm)}
    base_FD, arm_FD = rows[BASE], rows[settings.localisation.arm]
    if name == "code_difference":
        values = {task: found["arm"] - found["base"] for task, found in seen.items()}
        return Scores(values, labels, np.linalg.norm(arm_FD, axis=-1), alive_F)
    values = {
        task: found["arm"] * (found["gradient"] @ arm_FD.T) - found["base"] * (found["gradient"] @ base_FD.T)
        for task, found in seen.items()
    }
    return Scores(values, labels, np.ones(len(arm_FD)), alive_F)


def _table(
    settings: LocaliseSettings,
    scores: dict[str, Scores],
    seen: dict[str, dict[str, Floats]],
    labels: dict[str, NDArray[np.bool_]],
) -> pd.DataFrame:
    """One row a task and feature: every score, the one that counts, and the mean codes on the task's items."""
    frames = []
    for index, (task, found) in enumerate(seen.items()):
        chosen = labels[task]
        columns = {name: of.score_TF[index] for name, of in scores.items()}
        for name in MODELS:
            columns[f"mean_code_{name}"] = found[name][chosen].mean(axis=0) if chosen.any() else 0.0 * found[name][0]
        columns["score"] = columns[settings.localisation.score]
        frames.append(pd.DataFrame({"feature": np.arange(found["base"].shape[1]), "task": task, **columns}))
    return pd.concat(frames, ignore_index=True)


def _with_answers(answers: pd.DataFrame, task: str, items: list[str]) -> list[Item]:
    by_item = dict(list(answers[answers["task"] == task].sort_values("sample").groupby("item")))
    return [Item(by_item[item]["prompt"].iloc[0], by_item[item]["response"].tolist()) for item in items]


def _describe(settings: LocaliseSettings, by_score: dict[str, Scores]) -> dict[str, Any]:
    rule = settings.localisation
    scores = by_score[rule.score]
    kept_TF = scores.kept(rule.threshold)
    features = scores.ranked(kept_TF)[: rule.top]
    rng = np.random.default_rng(derive_seed(settings.seed, "localise", "permutations"))
    return {
        "arm": rule.arm,
        "tokens": rule.tokens,
        "score": rule.score,
        "threshold": rule.threshold,
        "features": features.tolist(),
        "strength": scores.strength()[features].tolist(),
        "by_score": {name: of.ranked(of.kept(rule.threshold))[: rule.top].tolist() for name, of in by_score.items()},
        "reason": _reason(scores, kept_TF, rule.threshold),
        "passed_everywhere": int(scores.everywhere(kept_TF).sum()),
        "per_task": {
            task: {
                "n_items": int(scores.labels[task].sum()),
                "n_selection": len(scores.labels[task]),
                "kept": int(kept_TF[index].sum()),
                "maximum": float(scores.score_TF[index].max()),
                "minimum": float(scores.score_TF[index].min()),
            }
            for index, task in enumerate(scores.tasks)
        },
        "threshold_curve": threshold_curve(scores),
        "null": permutation_null(scores, rule.threshold, rule.top, rule.permutations, rng),
    }


def _reason(scores: Scores, kept_TF: NDArray[np.bool_], threshold: float | None) -> str | None:
    """Why the list is empty or rests on fewer tasks; None if all is as it should be."""
    without = [task for task in scores.tasks if not scores.labels[task].any()]
    if len(without) == len(scores.tasks):
        return "on no transfer task has base an item wrong that the arm has right"
    if not scores.everywhere(kept_TF).any():
        rule = "has a positive mean score" if threshold is None else f"exceeds {threshold:g} of the maximum everywhere"
        return f"no feature {rule}, over the transfer tasks that have such items"
    if without:
        return f"{', '.join(without)}: no item that base has wrong and the arm right; left out of the intersection"
    return None
