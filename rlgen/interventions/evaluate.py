"""Edit a live model at the localised features, beside every control (METHOD: interventions).

One condition (the edit, one draw of a control, ...) is one run of the harness over the measurement items of every
task, and the unit of resuming. All conditions share the model, the items and the random numbers of sampling.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlgen.crosscoder.model import Crosscoder
from rlgen.errors import StudyError
from rlgen.evaluation.harness import Harness
from rlgen.features.attribution import read_features
from rlgen.interventions import edits, effects
from rlgen.interventions.controls import matched_sets, matched_shift, random_direction
from rlgen.interventions.edits import Change, Contribution, Donor, Site
from rlgen.models import device, edited, load_model, load_tokenizer
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study import BASE
from rlgen.study.sections import Amplification
from rlgen.study.stages import InterveneSettings

Condition = tuple[str, int]
"""A condition's name and its draw, 0 where there is but one."""

EDITED = {"amplify": "base", "ablate": "arm"}
"""Which model an edit is made in; the other one is the donor of the ceiling."""


def intervene(
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
    """Write what `edit` (`amplify` in base, `ablate` in the arm) does to accuracy: items.parquet, effects.json.

    `models` are those of `base` and `arm`. With no localised feature the edit and its random controls change
    nothing; encode-decode and the ceiling are measured all the same. Raises StudyError if there is no such edit.
    """
    if edit not in EDITED:
        raise StudyError(f"edit: given '{edit}'; use one of: {', '.join(EDITED)}")
    inputs = {
        "crosscoder": crosscoder,
        "localisation": localisation,
        "diagnostics": diagnostics,
        **{f"model {name}": models[name] for name in ("base", "arm")},
        **{f"task {path.name}": path for path in tasks},
    }
    with stage("intervene", settings, inputs, out) as work:
        localised = Localised.read(localisation, crosscoder, diagnostics)
        lab = Lab(edit, settings, localised, models, tasks)
        items = pd.concat(_runs(work, lab), ignore_index=True)
        with atomic_path(work.folder / "items.parquet") as path:
            items.drop(columns=["gold", "response", "prompt"]).to_parquet(path, index=False)
        write_json(work.folder / "effects.json", _effects(lab, items))


@dataclass(frozen=True)
class Localised:
    """The localised features and what is known of them."""

    arm: str
    features: list[int]
    steps_KD: Tensor
    """Decoded difference f^arm W_dec^arm - f^base W_dec^base of mean codes on the selection items, mean over the
    transfer tasks, raw units."""
    measurement_items: dict[str, list[str]]
    crosscoder: Crosscoder
    rate_F: Any
    """Firing rates."""

    @classmethod
    def read(cls, localisation: Path, crosscoder: Path, diagnostics: Path) -> Localised:
        """From the artifacts."""
        found = json.loads((localisation / "localisation.json").read_text())
        with_items = [task for task, row in found["per_task"].items() if row["n_items"]]
        scores = pd.read_parquet(localisation / "scores.parquet")
        codes = scores[scores["task"].isin(with_items)].groupby("feature")[["mean_code_base", "mean_code_arm"]].mean()
        features = list(found["features"])
        coder = Crosscoder.from_pretrained(crosscoder).to(device()).eval()
        decoded = [
            torch.tensor(codes[f"mean_code_{name}"].reindex(features).to_numpy(np.float32), device=device())[:, None]
            * coder.decoder_rows(model).detach()[features]
            for name, model in (("base", BASE), ("arm", found["arm"]))
        ]
        return cls(
            arm=found["arm"],
            features=features,
            steps_KD=decoded[1] - decoded[0],
            measurement_items=found["measurement_items"],
            crosscoder=coder,
            rate_F=read_features(diagnostics)["firing_rate"].to_numpy(np.float64),
        )


class Lab:
    """One loaded model under one harness, and every change that is tried on it."""

    def __init__(
        self, edit: str, settings: InterveneSettings, localised: Localised, models: dict[str, Path], tasks: list[Path]
    ) -> None:
        self.edit, self.settings, self.localised = edit, settings, localised
        self._models, self._tasks = models, tasks
        self.here = EDITED[edit]
        self.donor = "arm" if self.here == "base" else "base"
        self.coder, self.layer = localised.crosscoder, localised.crosscoder.config.layer
        names = self.coder.config.models
        self.slots = {"base": names.index(BASE), "arm": names.index(localised.arm)}
        self.rows_FD = self.coder.decoder_rows(self.slots["arm"]).detach()
        self.shift_D = localised.steps_KD.sum(dim=0)
        self.alpha = self._alpha()
        self.draws = matched_sets(localised.rate_F, localised.features, settings.draws, settings.seed)

    @property
    def conditions(self) -> list[Condition]:
        """Everything that is measured, the edit first."""
        single = (effects.BASELINE, effects.EFFECT, effects.ENCODE_DECODE, effects.CEILING, effects.DONOR)
        matched = [(effects.MATCHED, draw) for draw in range(self.settings.draws)]
        directions = [(effects.DIRECTION, draw) for draw in range(self.settings.directions)]
        return [*((name, 0) for name in single), *matched, *directions]

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to edit: no feature, or strength 0."""
        return not self.localised.features or self.alpha == 0

    def _alpha(self) -> float:
        """The edit's strength: as given, or such that the injected norm is as given."""
        edit = self.settings.edit
        length = float(self.shift_D.norm())
        if not isinstance(edit, Amplification) or edit.norm is None or length == 0:
            return edit.alpha
        usual = math.sqrt(self.coder.config.d) / float(self.coder.scale[self.slots["base"]])
        return edit.norm * usual / length

    @cached_property
    def model(self) -> PreTrainedModel:
        """The edited model."""
        return load_model(self._models[self.here])

    @cached_property
    def harness(self) -> Harness:
        """The edited model's."""
        return self._harness(self.model, self.here)

    @cached_property
    def donor_model(self) -> PreTrainedModel:
        """The other model."""
        return load_model(self._models[self.donor])

    @cached_property
    def donor_harness(self) -> Harness:
        """The other model's."""
        return self._harness(self.donor_model, self.donor)

    def run(self, condition: Condition) -> pd.DataFrame:
        """Rows (task, item, sample, right, answer, response, prompt) of the measurement items under a condition."""
        name, _ = condition
        harness = self.donor_harness if name == effects.DONOR else self.harness
        change = self.change(condition)
        with contextlib.ExitStack() as hooks:
            if change is not None:
                hooks.enter_context(edited(self.model, self.layer, self.site.edit(change)))
            return harness.run(
                items=self.localised.measurement_items,
                samples=self.settings.samples,
                seed=derive_seed(self.settings.seed, "intervene", "sampling"),
            )

    @cached_property
    def site(self) -> Site:
        """Where the model is edited."""
        return Site(
            self.harness.positions,
            self.settings.edit.tokens,
            self.coder,
            self.slots[self.here],
            load_tokenizer(self._models[self.here]).bos_token_id,
        )

    def change(self, condition: Condition) -> Change | None:
        """What a condition puts in the place of the activations; None leaves the model as it is."""
        name, draw = condition
        if name in (effects.BASELINE, effects.DONOR):
            return None
        if name == effects.ENCODE_DECODE:
            return edits.encode_decode(self.coder, self.slots[self.here])
        if name == effects.CEILING:
            return edits.patch(Donor(self.donor_model, self.layer, self.harness.positions))
        return self._amplify(name, draw) if self.edit == "amplify" else self._ablate(name, draw)

    def _amplify(self, name: str, draw: int) -> Change:
        shift_D = self.shift_D
        if name == effects.MATCHED:
            shift_D = self._matched_shift(draw)
        elif name == effects.DIRECTION:
            shift_D = self._direction(draw) * shift_D.norm()
        return edits.shift(shift_D, self.alpha)

    def _ablate(self, name: str, draw: int) -> Change:
        alpha, slot = self.alpha, self.slots["arm"]
        own = Contribution(self.coder, slot, self.localised.features)
        if name == effects.MATCHED:
            other = Contribution(self.coder, slot, self.draws[draw])
            return edits.subtract_like(own, other, self._matched_shift(draw), alpha)
        if name == effects.DIRECTION:
            return edits.subtract_like(own, None, self._direction(draw), alpha)
        return edits.ablate(own, alpha)

    def _matched_shift(self, draw: int) -> Tensor:
        return matched_shift(self.rows_FD, self.localised.features, self.localised.steps_KD, self.draws[draw])

    def _direction(self, draw: int) -> Tensor:
        return random_direction(self.coder.config.d, draw, self.settings.seed).to(self.rows_FD)

    def _harness(self, model: PreTrainedModel, name: str) -> Harness:
        return Harness(model, load_tokenizer(self._models[name]), self._tasks, self.settings.evaluation)


def _runs(work: Workspace, lab: Lab) -> list[pd.DataFrame]:
    """The rows of every condition; each is written to a file of its own as soon as it is there."""
    progress = work.progress(len(lab.conditions), "conditions")
    found: list[pd.DataFrame] = []
    for name, draw in lab.conditions:
        path = work.scratch / f"{name}-{draw}.parquet"
        if not path.is_file():
            same = lab.changes_nothing and name in (effects.EFFECT, effects.MATCHED, effects.DIRECTION)
            rows = found[0].drop(columns=["condition", "draw"]) if same else lab.run((name, draw))
            with atomic_path(path) as temporary:
                rows.to_parquet(temporary, index=False)
        found.append(pd.read_parquet(path).assign(condition=name, draw=draw))
        progress.add(note=name)
    return found


def _effects(lab: Lab, items: pd.DataFrame) -> dict[str, Any]:
    settings = lab.settings
    measured = effects.measure(items, settings.bootstrap, settings.seed)
    groups = {
        group: effects.block([measured[task] for task in tasks if task in measured], lab.edit)
        for group, tasks in settings.groups.items()
    }
    return {
        "edit": lab.edit,
        "model": BASE if lab.here == "base" else lab.localised.arm,
        "donor": BASE if lab.donor == "base" else lab.localised.arm,
        "layer": lab.layer,
        "alpha": lab.alpha,
        "tokens": settings.edit.tokens,
        "samples": settings.samples,
        "features": lab.localised.features,
        "matched_features": lab.draws,
        "shift_norm": float(lab.shift_D.norm()),
        "tasks": {task: effects.block([found], lab.edit) for task, found in measured.items()},
        "groups": groups,
        "likeness": effects.likeness(items, lab.edit, settings.groups),
    }
