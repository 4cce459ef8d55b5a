"""All scores of localisation beside an oracle that tries every single feature (METHOD: localisation).

The oracle makes the edit with one feature at a time, on the selection items, and asks how far the model's decision
after the prompt goes towards the other model's. It is exhaustive, so that what a score misses can be seen; features
that are silent in both models at all those tokens cannot do anything and are not tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlgen.features.refit import cached
from rlgen.interventions import effects
from rlgen.interventions.evaluate import run_portion
from rlgen.interventions.lab import Lab
from rlgen.interventions.likeness import turned
from rlgen.interventions.localised import Localised
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study.stages import InterveneSettings

Floats = NDArray[np.float64]
ORACLE, RANDOM = "oracle", "random"


def compare(
    edit: str,
    settings: InterveneSettings,
    *,
    crosscoder: Path,
    localisation: Path,
    diagnostics: Path,
    models: dict[str, Path],
    tasks: list[Path],
    out: Path,
) -> None:
    """Write what single features do, and what each score's features do together: oracle.parquet, comparison.json.

    The edit must be made at `last_prompt` tokens. `models` are those of `base` and `arm`.
    """
    inputs = {"crosscoder": crosscoder, "localisation": localisation, "diagnostics": diagnostics}
    inputs |= {f"model {name}": models[name] for name in ("base", "arm")}
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
        rows = {name: _together(work, lab, everything, name, features) for name, features in chosen.items()}
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


def _together(work: Workspace, lab: Lab, everything: Localised, name: str, features: list[int]) -> dict[str, Any]:
    """What the features do together on the measurement items."""
    path = work.scratch / f"{name}.parquet"
    if not path.is_file():
        frames = _measured(lab.at([everything.only(features)]), bool(features))
        with atomic_path(path) as temporary:
            pd.concat(list(frames), ignore_index=True).to_parquet(temporary, index=False)
    items = pd.read_parquet(path)
    measured = effects.measure(items, lab.settings.bootstrap, lab.settings.seed)
    rng = np.random.default_rng(derive_seed(lab.settings.seed, "compare", name))
    groups = {group: [measured[t] for t in tasks if t in measured] for group, tasks in lab.settings.groups.items()}
    moved = {group: effects.change(found, effects.EFFECT) for group, found in groups.items() if found}
    gone = turned(items, lab.edit, lab.settings.groups["transfer"], lab.settings.bootstrap, rng)
    return {"effects": moved, "turned": gone}


def _measured(lab: Lab, edits: bool) -> Iterator[pd.DataFrame]:
    for portion in lab.portions:
        for (condition, draw), rows in run_portion(lab, portion, [(effects.EFFECT, 0)] if edits else []):
            yield rows.assign(condition=condition, draw=draw)
            if not edits and condition == effects.BASELINE:
                yield rows.assign(condition=effects.EFFECT, draw=0)


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
