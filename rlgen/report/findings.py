"""What the arms must have learnt, held against the study's numbers; the paper's claims are in `verdicts`.

The bounds were written down before the miniature study was run (three seeds are reported). A claim whose part of
the pipeline a study leaves out is not listed; one that does not hold is listed as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TRAINED_ACCURACY = 0.85
TRAINED_GAIN = 0.30
TRANSFER_GAIN = 0.20
TRANSFER_LOSS = -0.15
SAME_ITEMS = "base, same items"

Finding = dict[str, Any]


def findings(summary: Mapping[str, Any]) -> list[Finding]:
    """Every claim that the study's parts allow to be judged: claim, statistic, relation, bound, unit, holds.

    `holds` is None where nothing was measured.
    """
    return [*_accuracies(summary), *_nulls(summary)]


def _finding(
    claim: str, statistic: float, relation: str, bound: float, unit: str, control: str, **interval: Any
) -> Finding:
    compare = {">=": statistic >= bound, "<=": statistic <= bound, ">": statistic > bound, "<": statistic < bound}
    found = {"claim": claim, "statistic": statistic, "relation": relation, "bound": bound, "unit": unit}
    return {**found, "control": control, "holds": compare[relation], **interval}


def _interval(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: block[key] for key in ("low", "high", "n")}


def _accuracies(summary: Mapping[str, Any]) -> Iterator[Finding]:
    for arm, method in summary["arms"].items():
        trained, change = summary["group_accuracy"][arm]["train_domain"], summary["contrasts"][arm]
        if method == "grpo" and trained is not None:
            claim, bound = f"{arm} masters the tasks it was trained on", TRAINED_ACCURACY
            yield _finding(claim, trained["value"], ">=", bound, "share", "a fixed bound", **_interval(trained))
            claim, gain = f"{arm} gains on the tasks it was trained on", change["train_domain"]
            yield _finding(claim, gain["value"], ">=", TRAINED_GAIN, "points", SAME_ITEMS, **_interval(gain))
    for arm, moved in ((arm, change["transfer"]) for arm, change in summary["contrasts"].items()):
        if moved is not None and summary["arms"][arm] == "grpo":
            claim, bound = f"{arm} gains on transfer tasks", TRANSFER_GAIN
            yield _finding(claim, moved["value"], ">=", bound, "points", SAME_ITEMS, **_interval(moved))
        if moved is not None and summary["arms"][arm] == "sft":
            claim, bound = f"{arm} forgets: it loses on transfer tasks", TRANSFER_LOSS
            yield _finding(claim, moved["value"], "<=", bound, "points", SAME_ITEMS, **_interval(moved))


def _nulls(summary: Mapping[str, Any]) -> Iterator[Finding]:
    null = summary["nulls"].get("base_base")
    if null is not None:
        claim = "Base joined with itself shows no feature of one side"
        found = _finding(claim, null["outside"], "<=", 0, "features", "a null: none expected", n=null["alive"])
        yield {**found, "holds": null["passed"] if null["alive"] else None}
