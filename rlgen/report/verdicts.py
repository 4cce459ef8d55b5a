"""Each claim of the paper beside its control: holds, does not hold, cannot tell (rules: METHOD, verdicts).

A claim whose part of the pipeline a study leaves out is not listed. One whose part is there, but of which nothing could
be measured, cannot be told, and the verdict says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlgen.report.edit_verdicts import edited, restores
from rlgen.report.feature_verdicts import changes_few, compact, more_specific, pairs_of, stabilises
from rlgen.report.judging import FAILS, HOLDS, UNKNOWN, Block, Verdict, nothing, unknown

HELPS = ("amplification_helps", "transplantation_helps", "transfers_to_unseen")
EDITS = {
    "amplification_helps": ("amplify", "Amplifying them in {model} helps"),
    "transplantation_helps": ("transplant", "Transplanting them into {model} helps"),
    "ablation_hurts": ("ablate", "Ablating them in {model} hurts"),
}
"""By claim on transfer tasks: the edit, and the sentence."""


def verdicts(summary: Block) -> dict[str, Verdict]:
    """Return the verdict on every claim that the study asks about: claim, verdict, statistic, control, n and why."""
    found = {name: verdict for name, verdict in _all(summary) if verdict is not None}
    null = summary["nulls"].get("base_base")
    if null is not None and not null["passed"]:
        why = "base joined with itself did not come out null"
        if null.get("alive") == 0:
            why = "no feature of base joined with itself is alive, so its null says nothing"
        found = {name: unknown(verdict, why) for name, verdict in found.items()}
    noised = summary["nulls"].get("interventions")
    if noised is not None and not noised["passed"]:
        why = "the same edit with base's noised copy in the arm's place was beyond its draws, too"
        found |= {name: unknown(found[name], why) for name in HELPS if name in found}
    return found


def _all(summary: Block) -> Iterator[tuple[str, Verdict | None]]:
    pairs = pairs_of(summary)
    yield "sft_more_specific", more_specific(summary, pairs)
    yield "sft_stabilises_early", stabilises(summary)
    yield "rl_changes_few", changes_few(summary, pairs)
    yield "compact_shared_set", compact(summary["localisation"])
    edits = summary["interventions"]
    yield "amplification_helps", _transfer(summary, "amplification_helps")
    yield "transplantation_helps", _transfer(summary, "transplantation_helps")
    unseen = [edited(edits.get(edit), "unseen", "It helps on unseen tasks, too") for edit in ("transplant", "amplify")]
    yield "transfers_to_unseen", unseen[0] or unseen[1]
    yield "ablation_hurts", _transfer(summary, "ablation_hurts")
    yield "ablation_restores_base", restores(edits.get("ablate"))


def _transfer(summary: Block, name: str) -> Verdict | None:
    edit, claim = EDITS[name]
    if edit in summary.get("unmeasured", []):
        said = claim.format(model="base" if name in HELPS else summary["localisation"]["arm"])
        return nothing(said, "no item of a transfer task is left to measure on", unit="points")
    return edited(summary["interventions"].get(edit), "transfer", claim)


def tally(found: Mapping[str, Verdict]) -> Sequence[int]:
    """Return how many hold, do not, and cannot be told."""
    return [sum(v["verdict"] == kind for v in found.values()) for kind in (HOLDS, FAILS, UNKNOWN)]
