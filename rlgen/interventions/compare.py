"""All scores of localisation beside an oracle that tries every single feature (METHOD: localisation).

The oracle makes the edit with one feature at a time, on the selection items, and asks how far the model's decision
after the prompt goes towards the other model's. It is exhaustive, so that what a score misses can be seen; features
whose mean code is 0 in both models, on the items that base has wrong and the arm right, are not tried.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlgen.errors import StudyError
from rlgen.features.refit import cached
from rlgen.interventions import effects
from rlgen.interventions.evaluate import answers
from rlgen.interventions.lab import REFERENCE, Lab
from rlgen.interventions.likeness import turned
from rlgen.interventions.localised import Localised
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study.sections.common import files_of
from rlgen.study.stages import CompareSettings

Floats = NDArray[np.float64]
ORACLE, RANDOM = "oracle", "random"


def compare(
    edit: str,
    settings: CompareSettings,
    *,
    crosscoder: Path,
    localisation: Path,
    diagnostics: Path,
    models: dict[str, Path],
    tasks: list[Path],
    out: Path,
) -> None:
    """Write what single features do, and what each score's features do together: oracle.parquet, comparison.json.

    `models` are those of `base` and `arm`. Raises StudyError if the edit is not made at `last_prompt`, the one place
    where single features are tried.
    """
    if settings.edit.tokens != "last_prompt":
        raise StudyError(f"localisation.oracle: it needs edits at last_prompt; `{edit}` is at {settings.edit.tokens}")
    inputs = {"crosscoder": crosscoder, "localisation": localisation, "diagnostics": diagnostics}
    inputs |= {f"model {name}": models[name] for name in ("base", "arm")}
    inputs |= {file: Path(file) for file in [*files_of(settings.mode), *settings.verifier_files]}
    inputs |= {f"task {path.name}": path for path in tasks}
    with stage("compare", settings, inputs, out) as work:
        scores = pd.read_parquet(localisation / "scores.parquet")
        everything = Localised.read(localisation, crosscoder, diagnostics, sorted(scores["feature"].unique()))
        lab = Lab(edit, settings, [everything], models, tasks)
        alone = _alone(work, lab, everything)
        table = _table(alone, scores)
        found = json.loads((localisation / "localisation.json").read_text())
        chosen = _chosen(found, table, settings.seed)
        with atomic_path(work.folder / "oracle.parquet") as path:
            table.to_parquet(path, index=False)
        rows = _together(work, lab, everything, chosen)
        ranks = _rank_correlations(table, list(found["by_score"]))
        write_json(work.folder / "comparison.json", _describe(edit, table, chosen, rows, ranks))


def _alone(work: Workspace, lab: Lab, everything: Localised) -> dict[str, Floats]:
    """Of every feature that is active somewhere: how far it goes, 1 - KL(edited || other) / KL(unedited || other)."""
    column = {"base": "kl_arm", "arm": "kl_base"}[lab.here]
    prompts = [
        ids
        for task, items in everything.selection_items.items()
        for item, ids in lab.harness.prompt_ids(task).items()
        if item in set(items)
    ]
    moved_F = everything.decoded["arm"].norm(dim=-1) + everything.decoded["base"].norm(dim=-1)
    active = [feature for feature, norm in zip(everything.features, moved_F.tolist(), strict=True) if norm > 0]

    def compute() -> dict[str, Floats]:
        lab.decide((effects.DONOR, 0), prompts)
        before = lab.decide((effects.BASELINE, 0), prompts)[column].mean()
        progress = work.progress(len(active), "features")
        gone = []
        for feature in active:
            after = lab.at([everything.only([feature])]).decide((effects.EFFECT, 0), prompts)[column].mean()
            gone.append(1 - after / before)
            progress.add()
        return {"feature": np.array(active, dtype=np.float64), "gone": np.array(gone, dtype=np.float64)}

    return cached(work.scratch / "alone.npz", compute)


def _table(alone: Mapping[str, Floats], scores: pd.DataFrame) -> pd.DataFrame:
    """One row a feature that was tried: `oracle` and every score's mean over the tasks."""
    columns = [name for name in scores.columns if name not in ("feature", "task", "score")]
    columns = [name for name in columns if not name.startswith("mean_code")]
    means = scores.groupby("feature")[columns].mean()
    features = alone["feature"].astype(np.int64)
    return pd.DataFrame({"feature": features, ORACLE: alone["gone"]}).join(means, on="feature")


def _chosen(found: Mapping[str, Any], table: pd.DataFrame, seed: int) -> dict[str, list[int]]:
    """The features that each score, the oracle and chance choose: as many of the latter two as were localised."""
    count = len(found["features"])
    best = table.sort_values(ORACLE, ascending=False, kind="stable")
    rng = np.random.default_rng(derive_seed(seed, "compare", "random"))
    drawn = rng.choice(table["feature"].to_numpy(), min(count, len(table)), replace=False).tolist()
    return {**found["by_score"], ORACLE: best["feature"].head(count).tolist(), RANDOM: sorted(drawn)}


def _together(
    work: Workspace, lab: Lab, everything: Localised, chosen: Mapping[str, list[int]]
) -> dict[str, dict[str, Any]]:
    """What each choice of features does together on the measurement items; all are held against the same answers."""
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in (*REFERENCE, *chosen)}
    for number, portion in enumerate(lab.portions):
        paths = {name: work.scratch / f"{number}-{name}.parquet" for name in frames}
        if not all(path.is_file() for path in paths.values()):
            references = lab.references(portion)
            for name, path in paths.items():
                if path.is_file():
                    continue
                of = lab.at([everything.only(chosen[name])]) if name in chosen else lab
                wanted = (effects.EFFECT, 0) if name in chosen else (name, 0)
                with atomic_path(path) as temporary:
                    answers(of, portion, references, wanted).to_parquet(temporary, index=False)
        for name, path in paths.items():
            frames[name].append(pd.read_parquet(path))
    whole = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}
    return {name: _moved(lab, whole, name) for name in chosen}


def _moved(lab: Lab, answers: Mapping[str, pd.DataFrame], name: str) -> dict[str, Any]:
    settings = lab.settings
    conditions = {**dict(zip(REFERENCE, REFERENCE, strict=True)), name: effects.EFFECT}
    items = pd.concat([answers[key].assign(condition=condition, draw=0) for key, condition in conditions.items()])
    measured = effects.measure(items, settings.bootstrap, settings.seed)
    rng = np.random.default_rng(derive_seed(settings.seed, "compare", name))
    groups = {group: [measured[t] for t in tasks if t in measured] for group, tasks in settings.groups.items()}
    return {
        "effects": {group: effects.change(found, effects.EFFECT) for group, found in groups.items() if found},
        "turned": turned(items, lab.edit, settings.groups["transfer"], settings.bootstrap, rng),
    }


def _rank_correlations(table: pd.DataFrame, scores: list[str]) -> dict[str, float | None]:
    """Spearman's, of each score with the oracle over the features that have both."""
    found: dict[str, float | None] = {}
    for name in scores:
        both = table[[ORACLE, name]].dropna()
        rho = np.corrcoef(both.rank().to_numpy(np.float64).T)[0, 1] if len(both) > 2 else np.nan
        found[name] = None if np.isnan(rho) else float(rho)
    return found


def _describe(
    edit: str,
    table: pd.DataFrame,
    chosen: Mapping[str, list[int]],
    rows: Mapping[str, dict[str, Any]],
    ranks: Mapping[str, float | None],
) -> dict[str, Any]:
    best = set(chosen[ORACLE])
    alone = table.set_index("feature")[ORACLE]
    return {
        "edit": edit,
        "tried": len(table),
        "methods": {
            name: {
                "features": features,
                "of_oracle": len(best & set(features)) / len(best) if best else None,
                "rank_correlation": ranks.get(name),
                "alone_mean": float(alone.reindex(features).fillna(0.0).mean()) if features else None,
                **rows[name],
            }
            for name, features in chosen.items()
        },
    }
