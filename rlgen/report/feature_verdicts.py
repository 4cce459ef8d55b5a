"""Verdicts on features: whose they are, when they are there, and which are localised (rules: METHOD, verdicts)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlgen.evaluation.scoring import sign_test
from rlgen.report.judging import (
    EARLY,
    LEVEL,
    METHODS,
    STABLE,
    UNKNOWN,
    Block,
    Verdict,
    decided,
    joined,
    make,
    nothing,
    proportions_test,
    share_of,
    unknown,
)
from rlgen.study.checks.notes import FEWEST_DRAWS

Pairs = Mapping[str, tuple[str, Block]]
"""By method, the first arm of it that has a pairwise crosscoder with base, and that crosscoder."""


def pairs_of(summary: Block) -> dict[str, tuple[str, Block]]:
    """Return the first pairwise crosscoder of base and an arm of each method, and the arm."""
    found: dict[str, tuple[str, Block]] = {}
    for crosscoder in summary["crosscoders"].values():
        arm = [model for model in crosscoder["models"] if model != "base"]
        if len(crosscoder["models"]) == 2 and len(arm) == 1 and arm[0] in summary["arms"]:
            found.setdefault(summary["arms"][arm[0]], (arm[0], crosscoder))
    return found


def _absent(found: Mapping[str, Any]) -> str | None:
    """Return the one method of the two that is not there; None if both are, or neither."""
    missing = [method for method in METHODS if method not in found]
    return missing[0] if len(missing) == 1 else None


def more_specific(summary: Block, pairs: Pairs) -> Verdict | None:
    """Judge whether SFT has more features of its own than RL. None if the study does not ask."""
    by_method = {method: arm for arm, method in reversed(summary["arms"].items())}
    if absent := _absent(by_method):
        names = METHODS | by_method
        claim = f"{names['sft']} has more features of its own than {names['grpo']}"
        return nothing(claim, f"no arm of this study was trained by {METHODS[absent]}")
    sft, rl = by_method.get("sft"), by_method.get("grpo")
    joint = next((c for c in summary["crosscoders"].values() if {"base", sft, rl} <= set(c["models"])), None)
    if joint is None:
        return None
    more, fewer = joint["specific_features"][sft], joint["specific_features"][rl]
    p = sign_test(more, fewer)
    noise, beside = _held_against_noise(summary, pairs.get("sft"))
    doubt = "no feature is specific to either" if not more + fewer else None
    if more != fewer and p >= LEVEL:
        doubt = "so small a difference may be chance"
    return make(
        f"{sft} has more features of its own than {rl}",
        decided(more > fewer and p < LEVEL and noise is None, fewer > more and p < LEVEL),
        more - fewer,
        f"{fewer} features specific to {rl}{beside}",
        more + fewer,
        joined(f"{more} against {fewer}, sign test p = {p:.2g}", doubt, noise if more > fewer else None),
        p=p,
    )


def _held_against_noise(summary: Block, pair: tuple[str, Block] | None) -> tuple[str | None, str]:
    """Return why an arm's pair does not have more features outside the NRN range than noise, None if it has; and what
    noise alone has, in words."""
    noise = summary["nulls"].get("base_noise")
    if noise is None:
        return "there is no null of weight noise to hold it against", ""
    if pair is None:
        return "no pairwise crosscoder to hold against noise", ""
    count, null = pair[1]["nrn"]["outside"], noise["outside"]
    beside = f"; outside the NRN range {100 * share_of(null, noise['alive']):.1f}% by noise alone"
    if not noise["alive"] or not pair[1]["alive"]:
        return f"no feature of {pair[0] if noise['alive'] else 'the noise null'} is alive", beside
    more = share_of(count, pair[1]["alive"]) > share_of(null, noise["alive"])
    p = proportions_test(count, pair[1]["alive"], null, noise["alive"])
    return None if more and p < LEVEL else "not beyond what noise makes", beside


def changes_few(summary: Block, pairs: Pairs) -> Verdict | None:
    """Judge whether RL changes fewer features than SFT. None if the study does not ask."""
    if absent := _absent(pairs):
        name = pairs["grpo"][0] if "grpo" in pairs else METHODS["grpo"]
        why = f"no pairwise crosscoder joins base and an arm trained by {METHODS[absent]}"
        return nothing(f"{name} changes few features", why, unit="points")
    if "grpo" not in pairs:
        return None
    (rl, ours), (sft, theirs) = pairs["grpo"], pairs["sft"]
    few, many = ours["nrn"]["outside"], theirs["nrn"]["outside"]
    difference = share_of(few, ours["alive"]) - share_of(many, theirs["alive"])
    p = proportions_test(few, ours["alive"], many, theirs["alive"])
    doubt = "so small a difference may be chance" if p >= LEVEL else None
    dead = [name for name, pair in ((rl, ours), (sft, theirs)) if not pair["alive"]]
    if dead:
        doubt = f"no feature of {' and '.join(dead)} is alive"
    told, _ = _held_against_noise(summary, pairs["grpo"])
    noise = f"{'more' if told is None else 'no more'} than noise of its size" if _noise(summary) else None
    return make(
        f"{rl} changes few features",
        UNKNOWN if dead else decided(difference < 0 and p < LEVEL, difference > 0 and p < LEVEL),
        difference,
        f"features outside the NRN range, {sft}: {100 * share_of(many, theirs['alive']):.1f}%",
        ours["alive"] + theirs["alive"],
        joined(f"{100 * share_of(few, ours['alive']):.1f}% of {rl}'s, p = {p:.2g}", doubt, noise),
        unit="points",
        p=p,
    )


def _noise(summary: Block) -> bool:
    return "base_noise" in summary["nulls"]


def stabilises(summary: Block) -> Verdict | None:
    """Judge whether SFT's features are there earlier than RL's. None if the study does not ask."""
    tracked = {summary["arms"].get(t["arm"]): t for t in reversed(list(summary["tracking"].values()))}
    if absent := _absent(tracked):
        name = tracked["sft"]["arm"] if "sft" in tracked else METHODS["sft"]
        return nothing(f"{name}'s features are there early", f"no arm trained by {METHODS[absent]} is tracked")
    if "sft" not in tracked:
        return None
    name, other = tracked["sft"]["arm"], tracked["grpo"]["arm"]
    claim, n = f"{name}'s features are there early", tracked["sft"]["top"]
    for track in (tracked["sft"], tracked["grpo"]):
        if problem := _untold(track):
            return nothing(claim, f"{track['arm']}: {problem}", unit="points")
    sft, rl = _early(tracked["sft"]), _early(tracked["grpo"])
    mean = tracked["sft"]["null"].get("mean")
    ratio = sft["value"] / mean if mean else 0.0
    of_null = f"{ratio:.2f} of its split-half null" if mean else "it has no split-half null to be compared with"
    low = "which is too little of it" if mean and ratio < STABLE and sft["low"] > rl["high"] else None
    meet = "the two intervals meet" if sft["low"] <= rl["high"] and sft["high"] >= rl["low"] else None
    return make(
        claim,
        decided(sft["low"] > rl["high"] and ratio >= STABLE, sft["high"] < rl["low"]),
        sft["value"] - rl["value"],
        f"{other}'s overlap {rl['value']:.2f} [{rl['low']:.2f}, {rl['high']:.2f}]",
        n,
        joined(f"{name}'s {sft['value']:.2f} [{sft['low']:.2f}, {sft['high']:.2f}], {of_null}", low, meet),
        unit="points",
    )


def _untold(tracked: Block) -> str | None:
    """Return why an arm's early overlap cannot be told; None if it can."""
    if len(tracked["checkpoints"]) < 2:
        return "it has no checkpoint before the final one"
    if not {"overlap", "overlap_low", "overlap_high"} <= tracked.keys():
        return "its overlaps have no intervals"
    return "its overlaps could not be computed" if None in _early(tracked).values() else None


def _early(tracked: Block) -> dict[str, Any]:
    """Return the overlap of an early checkpoint's top features with the final ones, with its 95% interval."""
    last = len(tracked["checkpoints"]) - 1
    place = min(range(last), key=lambda i: abs((i + 1) / (last + 1) - EARLY))
    keys = {"value": "overlap", "low": "overlap_low", "high": "overlap_high"}
    return {name: tracked[key][place][last] for name, key in keys.items()}


def compact(found: Block | None) -> Verdict | None:
    """Judge whether few features, shared by the transfer tasks, are localised. None if the study does not ask."""
    if found is None:
        return None
    count, null = len(found["features"]), found["null"]["strength"]
    n, p, draws = sum(row["n_items"] for row in found["per_task"].values()), null["p"], found["null"].get("draws")
    few = draws is not None and draws < FEWEST_DRAWS
    doubt = None
    if not count:
        doubt = "no feature passes"
    elif p is None or p >= LEVEL:
        doubt = f"{draws} permutations are too few to tell" if few else "items at random choose as strong a set"
    again = found["null"]["overlap"].get("mean")
    verdict = make(
        "A small set of features, shared by the transfer tasks, stands behind the arm's right answers",
        decided(0 < count <= found["top"] and p is not None and p < LEVEL, count == 0),
        count,
        "as many random items, whichever model is right",
        n,
        joined(
            f"strength against permuted labels p = {p:.2g}" if p is not None else None,
            f"these choose {100 * again:.0f}% of the same features" if again is not None else None,
            doubt,
        ),
        p=p,
    )
    return verdict if n else unknown(verdict, "on no transfer task has base an item wrong that the arm has right")
