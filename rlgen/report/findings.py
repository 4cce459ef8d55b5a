"""The study's claims, held against its numbers: what was expected, what was measured, whether it holds.

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
AMPLIFIED_GAIN = 0.15
RANDOM_FACTOR = 2.0
MOST_FEATURES = 20
FEWEST_DRAWS = 19
"""With fewer random draws than this, an effect beyond all of them still has p > 0.05."""
SAME_ITEMS = "base, same items"

Finding = dict[str, Any]


def findings(summary: Mapping[str, Any]) -> list[Finding]:
    """Every claim that the study's parts allow to be judged: claim, statistic, relation, bound, unit, holds."""
    return [*_accuracies(summary), *_specific(summary), *_amplified(summary), *_ablated(summary), *_nulls(summary)]


def _finding(
    claim: str, statistic: float, relation: str, bound: float, unit: str, control: str, **interval: Any
) -> Finding:
    compare = {">=": statistic >= bound, "<=": statistic <= bound, ">": statistic > bound, "<": statistic < bound}
    found = {"claim": claim, "statistic": statistic, "relation": relation, "bound": bound, "unit": unit}
    return {**found, "control": control, "holds": compare[relation], **interval}


def _interval(block: Mapping[str, Any]) -> dict[str, Any]:
    return {key: block[key] for key in ("low", "high", "n")}


def _against_draws(found: Finding, block: Mapping[str, Any]) -> Finding:
    """The finding, its control named with the number of draws; it cannot hold against too few."""
    draws = block["matched_random"]["draws"]
    enough = draws >= FEWEST_DRAWS
    control = f"{found['control']} of {draws} matched random sets" + ("" if enough else ", too few to tell")
    return {**found, "control": control, "holds": found["holds"] and enough}


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


def _specific(summary: Mapping[str, Any]) -> Iterator[Finding]:
    sft = [arm for arm, method in summary["arms"].items() if method == "sft"]
    rl = [arm for arm, method in summary["arms"].items() if method == "grpo"]
    for name, crosscoder in summary["crosscoders"].items():
        joined = crosscoder["models"]
        counts = crosscoder["specific_features"]
        for one in (arm for arm in sft if arm in joined):
            for other in (arm for arm in rl if arm in joined):
                claim = f"{one} has more features of its own than {other} ({name})"
                control = f"features specific to {other}"
                yield _finding(claim, counts[one], ">", counts[other], "features", control)


def _amplified(summary: Mapping[str, Any]) -> Iterator[Finding]:
    edit = summary["interventions"].get("amplify")
    if edit is None:
        return
    count = len(summary["localisation"]["features"])
    relation, bound = ("<=", MOST_FEATURES) if count else (">=", 1)
    yield _finding("A few features are localised", count, relation, bound, "features", "a fixed bound")
    for group, block in (("transfer", edit), ("unseen", edit["unseen"])):
        if block is None:
            continue
        effect, interval = block["effect"], _interval(block)
        claim = f"Amplifying them in {edit['model']} raises accuracy on {group} tasks"
        yield _finding(claim, effect, ">=", AMPLIFIED_GAIN, "points", "a fixed bound", **interval)
        q95 = block["matched_random"]["q95"]
        claim = f"… and by more than twice as much as matched random features do, on {group} tasks"
        found = _finding(
            claim, effect, ">", RANDOM_FACTOR * max(q95, 0.0), "points", "twice the 95th percentile", **interval
        )
        yield _against_draws(found, block)


def _ablated(summary: Mapping[str, Any]) -> Iterator[Finding]:
    edit = summary["interventions"].get("ablate")
    if edit is None:
        return
    for group, block in (("transfer", edit), ("unseen", edit["unseen"])):
        if block is not None:
            claim = f"Ablating them in {edit['model']} costs more on {group} tasks than matched random features do"
            bound = min(block["matched_random"]["q05"], 0.0)
            found = _finding(claim, block["effect"], "<", bound, "points", "5th percentile", **_interval(block))
            yield _against_draws(found, block)


def _nulls(summary: Mapping[str, Any]) -> Iterator[Finding]:
    null = summary["nulls"].get("base_base")
    if null is not None:
        claim = "Base joined with itself shows no feature of one side"
        found = _finding(claim, null["outside"], "<=", 0, "features", "a null: none expected", n=null["alive"])
        yield {**found, "holds": null["passed"]}
