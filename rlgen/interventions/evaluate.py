"""Edit a live model at the localised features, beside every control (METHOD: interventions).

One condition (the edit, one draw of a control, ...) on one portion of the measurement items is one run of the harness,
and the unit of resuming. All conditions share the models, the items, what was read of the prompts, and the random
numbers of sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlgen.errors import StudyError
from rlgen.interventions import effects
from rlgen.interventions.damage import damage
from rlgen.interventions.lab import REFERENCE, Condition, Lab, Portion
from rlgen.interventions.likeness import likeness, turned
from rlgen.interventions.localised import described, read_all
from rlgen.interventions.slopes import slopes
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study import BASE
from rlgen.study.sections.common import files_of
from rlgen.study.stages import InterveneSettings


def intervene(
    edit: str,
    settings: InterveneSettings,
    *,
    crosscoder: list[Path],
    localisation: list[Path],
    diagnostics: list[Path],
    models: dict[str, Path],
    tasks: list[Path],
    corpus: Path,
    out: Path,
) -> None:
    """Write what `edit`, one of `effects.EDITED`, does to accuracy and what else: items.parquet, effects.json.

    Crosscoders of several layers, each with its localisation and diagnostics, are edited together. `models` are those
    of `base` and `arm`. With no localised feature the edit and its random controls change nothing; encode-decode and
    the ceiling are measured all the same. Raises StudyError if there is no such edit.
    """
    if edit not in effects.EDITED:
        raise StudyError(f"edit: given '{edit}'; use one of: {', '.join(effects.EDITED)}")
    inputs = {"corpus": corpus}
    for kind, paths in (("crosscoder", crosscoder), ("localisation", localisation), ("diagnostics", diagnostics)):
        inputs |= {f"{kind} {index}": path for index, path in enumerate(paths)}
    inputs |= {f"model {name}": models[name] for name in ("base", "arm")}
    inputs |= {file: Path(file) for file in [*files_of(settings.mode), *settings.verifier_files]}
    inputs |= {f"task {path.name}": path for path in tasks}
    with stage("intervene", settings, inputs, out) as work:
        lab = Lab(edit, settings, read_all(localisation, crosscoder, diagnostics), models, tasks)
        items = pd.concat(list(_runs(work, lab)), ignore_index=True)
        harm = damage(work, lab, corpus)
        work.facts["precision"] = lab.harness.precision
        with atomic_path(work.folder / "items.parquet") as path:
            items.drop(columns=["gold", "response", "prompt"]).to_parquet(path, index=False)
        found = _effects(lab, items)
        transfer = found["groups"]["transfer"]
        pushes = slopes(work, lab, transfer and transfer["matched_random"]["values"])
        write_json(work.folder / "effects.json", {**found, "damage": harm, "slopes": pushes})


def _runs(work: Workspace, lab: Lab) -> Iterator[pd.DataFrame]:
    """The rows of every condition; each is written to a file of its own as soon as it is there."""
    progress = work.progress(len(lab.portions) * (len(REFERENCE) + len(lab.conditions)), "conditions")
    for number, portion in enumerate(lab.portions):
        wanted = [*((name, 0) for name in REFERENCE), *lab.conditions]
        paths = {condition: work.scratch / f"{number}-{condition[0]}-{condition[1]}.parquet" for condition in wanted}
        missing = [condition for condition in wanted if not paths[condition].is_file()]
        references = lab.references(portion) if missing else {}  # again, if killed: others are told apart from them
        for condition in missing:
            with atomic_path(paths[condition]) as temporary:
                answers(lab, portion, references, condition).to_parquet(temporary, index=False)
            progress.add(note=condition[0])
        for (name, draw), path in paths.items():
            yield pd.read_parquet(path).assign(condition=name, draw=draw)


def answers(
    lab: Lab, portion: Portion, references: Mapping[Condition, pd.DataFrame], condition: Condition
) -> pd.DataFrame:
    """What is answered under a condition; `references` are the unedited models' answers to the same portion."""
    if condition in references:
        return references[condition]
    same = lab.changes_nothing and condition[0] in effects.EDITS
    return references[effects.BASELINE, 0] if same else lab.run(condition, portion)


def _effects(lab: Lab, items: pd.DataFrame) -> dict[str, Any]:
    settings = lab.settings
    measured = effects.measure(items, settings.bootstrap, settings.seed)
    groups = {group: [measured[task] for task in tasks if task in measured] for group, tasks in settings.groups.items()}
    rng = np.random.default_rng(derive_seed(settings.seed, "intervene", "likeness"))
    first = lab.localised[0]
    return {
        "edit": lab.edit,
        "model": BASE if lab.here == "base" else first.arm,
        "donor": BASE if lab.donor == "base" else first.arm,
        "crosscoder": first.name,
        "layer": first.layer,
        "layers": described(lab.localised),
        "alpha": lab.alpha,
        "tokens": settings.edit.tokens,
        "samples": settings.samples,
        "features": first.features,
        "matched_features": lab.draws[0],
        "shift_norm": float(first.steps_KD.sum(dim=0).norm()),
        "tasks": {task: effects.block([found], lab.edit) for task, found in measured.items()},
        "groups": {group: effects.block(tasks, lab.edit) for group, tasks in groups.items()},
        "sweep": effects.sweep(groups["transfer"], [lab.alpha * share for share in lab.sweep]),
        "likeness": likeness(items, lab.edit, settings.groups),
        "turned": {
            group: turned(items, lab.edit, tasks, settings.bootstrap, rng) for group, tasks in settings.groups.items()
        },
    }
