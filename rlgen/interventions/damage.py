"""What an edit costs on plain text: next-token cross-entropy with every token edited (METHOD: interventions)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rlgen.crosscoder.splice import Rows, cross_entropy_of
from rlgen.features.refit import Floats, cached
from rlgen.interventions import effects
from rlgen.interventions.lab import Condition, Lab
from rlgen.stage import Workspace

TOKENS = 2048
"""Corpus tokens, in rows evenly spread."""
DRAWS = 5
"""Matched sets that are tried on text, at most."""
BATCH = 2048


def damage(work: Workspace, lab: Lab, corpus: Path) -> dict[str, float | list[float]]:
    """Cross-entropy of the edited model on the corpus, nats a token: unedited, under the edit and under matched sets.

    The edit is made at every token but beginnings and outliers, whatever token set the study names: on plain text there
    are no prompts. An edit that the study makes at some tokens alone is made far oftener here.
    """
    rows = Rows.of(corpus, TOKENS).batches(BATCH)
    draws: list[Condition] = [(effects.MATCHED, draw) for draw in range(min(DRAWS, lab.settings.draws))]
    conditions: list[Condition] = [(effects.BASELINE, 0), (effects.EFFECT, 0), *draws]
    if lab.changes_nothing:
        conditions = conditions[:1]

    def compute() -> dict[str, Floats]:
        return {f"{name}-{draw}": _cross_entropy(lab, rows, (name, draw)) for name, draw in conditions}

    found = cached(work.scratch / "damage.npz", compute)
    before = float(found[f"{effects.BASELINE}-0"])
    matched = [float(found[f"{effects.MATCHED}-{draw}"]) if len(found) > 1 else before for _, draw in draws]
    return {
        "unedited": before,
        "edited": float(found.get(f"{effects.EFFECT}-0", before)),
        "matched_random": matched,
        "tokens": int(sum(int(batch.counts_BT[:, 1:].sum()) for batch in rows)),
    }


@torch.no_grad()
def _cross_entropy(lab: Lab, rows: list[Rows], condition: Condition) -> Floats:
    total, tokens = 0.0, 0
    for batch in rows:
        on = Rows(batch.on(lab.model.device), batch.counts_BT.to(lab.model.device))
        lab.harness.positions.texts(on.inputs, on.counts_BT)
        with lab.edited(lab.changes(condition), everywhere=True):
            total += cross_entropy_of(lab.model, on)
        tokens += int(on.counts_BT[:, 1:].sum())
    lab.harness.positions.end()
    return np.array(total / max(tokens, 1))
