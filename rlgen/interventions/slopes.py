"""How fast the decision begins to move as a push begins: why some matched sets act though nothing chose them.

A random set of features is no nothing: scaled up to the edit's norm, it pushes, and some of what it pushes along moves
the decision between the two models too. If the sets' effects follow from these slopes, that is all there is to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlgen.features.refit import Floats, cached
from rlgen.interventions import effects
from rlgen.interventions.lab import Condition, Lab
from rlgen.stage import Workspace

STRENGTH = 0.1
"""Share of the edit's strength at which slopes are measured."""
ITEMS = 64
"""Measurement items a transfer task, at most."""


def slopes(work: Workspace, lab: Lab, matched_effects: list[float] | None) -> dict[str, Any] | None:
    """Nats that KL(edited || other model) at the end of prompts falls, extrapolated from a tenth of the strength.

    `edit` is the edit's own, `matched` the matched sets', `correlation` Pearson's of theirs with their effects on the
    transfer tasks (`matched_effects`). None where nothing is edited, or not at the last prompt token alone.
    """
    if lab.changes_nothing or lab.settings.edit.tokens != "last_prompt" or not matched_effects:
        return None
    found = cached(work.scratch / "slopes.npz", lambda: {"slopes": _measure(lab)})["slopes"]
    return {
        "strength": STRENGTH,
        "edit": float(found[0]),
        "matched": found[1:].tolist(),
        "correlation": _correlation(found[1:], np.array(matched_effects)),
    }


def _measure(lab: Lab) -> Floats:
    column = {"base": "kl_arm", "arm": "kl_base"}[lab.here]
    prompts = []
    for task in lab.settings.groups["transfer"]:
        ids = lab.harness.prompt_ids(task)
        items = lab.localised[0].measurement_items.get(task, list(ids))
        prompts += [ids[item] for item in items[:ITEMS]]
    weak = lab.weaker(STRENGTH)

    def divergence(condition: Condition) -> float:
        return float(weak.decide(condition, prompts)[column].mean())

    divergence((effects.DONOR, 0))
    before = divergence((effects.BASELINE, 0))
    conditions = [(effects.EFFECT, 0), *((effects.MATCHED, draw) for draw in range(lab.settings.draws))]
    return np.array([(before - divergence(condition)) / STRENGTH for condition in conditions])


def _correlation(slopes: Floats, found: Floats) -> float | None:
    if len(slopes) < 3 or np.ptp(slopes) == 0 or np.ptp(found) == 0:
        return None
    return float(np.corrcoef(slopes, found)[0, 1])
