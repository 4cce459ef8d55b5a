"""Each claim of the paper beside its control: holds, does not hold, cannot tell (rules: METHOD, verdicts)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlgen.evaluation.scoring import sign_test
from rlgen.interventions.effects import EXPECTED_SIGN

Block = Mapping[str, Any]
Verdict = dict[str, Any]

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot tell"
LEVEL = 0.05
FEWEST_DRAWS = 19
"""With fewer random draws than this, an effect beyond all of them still has p > 0.05."""
EARLY = 0.4
"""Share of training at which features are held against the final ones."""
STABLE = 0.8
"""Of what the split-half null can show."""
QUARTER, HALF = 0.25, 0.5
HELPS = ("amplification_helps", "transplantation_helps", "transfers_to_unseen")


def verdicts(summary: Block) -> dict[str, Verdict]:
    """By claim, those that the study's parts allow to be judged: claim, verdict, statistic, control, n and why."""
    found = {name: verdict for name, verdict in _all(summary) if verdict is not None}
    null = summary["nulls"].get("base_base")
    if null is not None and not null["passed"]:
        found = {
            name: _unknown(verdict, "base joined with itself did not come out null") for name, verdict in found.items()
        }
    edited = summary["nulls"].get("interventions")
    if edited is not None and not edited["passed"]:
        why = "the same edit with base's noised copy in the arm's place was beyond its draws, too"
        found |= {name: _unknown(found[name], why) for name in HELPS if name in found}
    return found


def _all(summary: Block) -> Iterator[tuple[str, Verdict | None]]:
    pairs = _pairs(summary)
    yield "sft_more_specific", _more_specific(summary, pairs)
    yield "sft_stabilises_early", _stabilises(summary)
    yield "rl_changes_few", _changes_few(summary, pairs)
    yield "compact_shared_set", _compact(summary["localisation"])
    edits = summary["interventions"]
    yield "amplification_helps", _edited(edits.get("amplify"), "transfer", "Amplifying them in {model} helps")
    yield "transplantation_helps", _edited(edits.get("transplant"), "transfer", "Transplanting them into {model} helps")
    unseen = [_edited(edits.get(edit), "unseen", "It helps on unseen tasks, too") for edit in ("transplant", "amplify")]
    yield "transfers_to_unseen", unseen[0] or unseen[1]
    yield "ablation_hurts", _edited(edits.get("ablate"), "transfer", "Ablating them in {model} hurts")
    yield "ablation_restores_base", _restores(edits.get("ablate"))


def _verdict(claim: str, verdict: str, statistic: float, control: str, n: int, because: str, **rest: Any) -> Verdict:
    found = {"claim": claim, "verdict": verdict, "statistic": statistic, "control": control, "n": n, "because": because}
    return {**found, "unit": "features", "low": None, "high": None, "p": None, **rest}


def _unknown(verdict: Verdict, because: str) -> Verdict:
    return {**verdict, "verdict": UNKNOWN, "because": because}


def _decided(holds: bool, fails: bool) -> str:
    return HOLDS if holds else FAILS if fails else UNKNOWN


# ------------------------------------------------------------------------------------------ features


def _pairs(summary: Block) -> dict[str, tuple[str, Block]]:
    """The first pairwise crosscoder of base and an arm of each method, and the arm."""
    found: dict[str, tuple[str, Block]] = {}
    for crosscoder in summary["crosscoders"].values():
        arm = [model for model in crosscoder["models"] if model != "base"]
        if len(crosscoder["models"]) == 2 and len(arm) == 1 and arm[0] in summary["arms"]:
            found.setdefault(summary["arms"][arm[0]], (arm[0], crosscoder))
    return found


def _more_specific(summary: Block, pairs: Mapping[str, tuple[str, Block]]) -> Verdict | None:
    by_method = {method: arm for arm, method in reversed(summary["arms"].items())}
    sft, rl = by_method.get("sft"), by_method.get("grpo")
    joint = next((c for c in summary["crosscoders"].values() if {"base", sft, rl} <= set(c["models"])), None)
    if joint is None:
        return None
    more, fewer = joint["specific_features"][sft], joint["specific_features"][rl]
    p = sign_test(more, fewer)
    beyond, beside = _beyond_noise(summary, pairs.get("sft"))
    return _verdict(
        f"{sft} has more features of its own than {rl}",
        _decided(more > fewer and p < LEVEL and beyond, fewer > more and p < LEVEL),
        more - fewer,
        f"{fewer} features specific to {rl}{beside}",
        more + fewer,
        f"{more} against {fewer}, sign test p = {p:.2g}" + ("" if beyond else "; not beyond what noise makes"),
        p=p,
    )


def _beyond_noise(summary: Block, pair: tuple[str, Block] | None) -> tuple[bool, str]:
    """Whether an arm's pair has more features outside the NRN range than noise, and the words for it.

    Without a null of noise there is nothing to exceed; with one and no pair it cannot be said that it is exceeded.
    """
    noise = summary["nulls"].get("base_noise")
    if noise is None:
        return True, ""
    if pair is None:
        return False, "; no pairwise crosscoder to hold against noise"
    count, null = pair[1]["nrn"]["outside"], noise["outside"]
    more = share_of(count, pair[1]["alive"]) > share_of(null, noise["alive"])
    p = proportions_test(count, pair[1]["alive"], null, noise["alive"])
    return more and p < LEVEL, f"; outside the NRN range {100 * share_of(null, noise['alive']):.1f}% by noise alone"


def _changes_few(summary: Block, pairs: Mapping[str, tuple[str, Block]]) -> Verdict | None:
    if not {"sft", "grpo"} <= pairs.keys():
        return None
    (rl, ours), (sft, theirs) = pairs["grpo"], pairs["sft"]
    few, many = ours["nrn"]["outside"], theirs["nrn"]["outside"]
    difference = share_of(few, ours["alive"]) - share_of(many, theirs["alive"])
    p = proportions_test(few, ours["alive"], many, theirs["alive"])
    told, _ = _beyond_noise(summary, pairs["grpo"])
    noise = "" if "base_noise" not in summary["nulls"] else f"; {'more' if told else 'no more'} than noise of its size"
    return _verdict(
        f"{rl} changes few features",
        _decided(difference < 0 and p < LEVEL, difference > 0 and p < LEVEL),
        difference,
        f"features outside the NRN range, {sft}: {100 * share_of(many, theirs['alive']):.1f}%",
        ours["alive"] + theirs["alive"],
        f"{100 * share_of(few, ours['alive']):.1f}% of {rl}'s, p = {p:.2g}{noise}",
        unit="points",
        p=p,
    )


def _stabilises(summary: Block) -> Verdict | None:
    tracked = {summary["arms"].get(t["arm"]): t for t in reversed(list(summary["tracking"].values()))}
    if not {"sft", "grpo"} <= tracked.keys():
        return None
    name, other = tracked["sft"]["arm"], tracked["grpo"]["arm"]
    sft, rl = _early(tracked["sft"]), _early(tracked["grpo"])
    claim, n = f"{name}'s features are there early", tracked["sft"]["top"]
    if sft is None or rl is None:
        missing = "an arm has no checkpoint before the final one, or its overlaps have no intervals"
        return _verdict(claim, UNKNOWN, 0.0, f"{other}'s overlap", n, missing, unit="points")
    mean = tracked["sft"]["null"]["mean"]
    ratio = sft["value"] / mean if mean else 0.0
    return _verdict(
        claim,
        _decided(sft["low"] > rl["high"] and ratio >= STABLE, sft["high"] < rl["low"]),
        sft["value"] - rl["value"],
        f"{other}'s overlap {rl['value']:.2f} [{rl['low']:.2f}, {rl['high']:.2f}]",
        n,
        f"{name}'s {sft['value']:.2f} [{sft['low']:.2f}, {sft['high']:.2f}], {ratio:.2f} of its split-half null",
        unit="points",
    )


def _early(tracked: Block) -> dict[str, float] | None:
    """Overlap of an early checkpoint's top features with the final ones, with its 95% interval; None without either."""
    last = len(tracked["checkpoints"]) - 1
    if last < 1 or "overlap_low" not in tracked:
        return None
    place = min(range(last), key=lambda i: abs((i + 1) / (last + 1) - EARLY))
    keys = {"value": "overlap", "low": "overlap_low", "high": "overlap_high"}
    return {name: tracked[key][place][last] for name, key in keys.items()}


def _compact(found: Block | None) -> Verdict | None:
    if found is None:
        return None
    count, null = len(found["features"]), found["null"]["strength"]
    holds = 0 < count <= found["top"] and null["p"] < LEVEL
    return _verdict(
        "A small set of features, shared by the transfer tasks, stands behind the arm's right answers",
        _decided(holds, count == 0),
        count,
        "as many items at random, whoever is right",
        sum(row["n_items"] for row in found["per_task"].values()),
        f"strength against permuted labels p = {null['p']:.2g}, which choose "
        f"{100 * found['null']['overlap']['mean']:.0f}% of the same features",
        p=null["p"],
    )


# --------------------------------------------------------------------------------------------- edits


def _edited(edit: Block | None, group: str, claim: str) -> Verdict | None:
    block = None if edit is None else edit if group == "transfer" else edit[group]
    if edit is None or block is None:
        return None
    sign = EXPECTED_SIGN[edit["edit"]]
    measured = [fit if group == "transfer" else fit[group] for fit in edit.get("fits", [])]
    fits = [fit for fit in measured if fit is not None] or [block]
    each = [_one(fit, sign) for fit in fits]
    verdict = each[0] if len(set(each)) == 1 else UNKNOWN
    matched = block["matched_random"]
    return _verdict(
        claim.format(model=edit["model"]),
        verdict,
        block["effect"],
        f"{matched['draws']} matched sets: {100 * matched['q05']:+.1f} to {100 * matched['q95']:+.1f}; "
        f"encode-decode {100 * block['encode_decode']:+.1f}; ceiling {100 * block['ceiling']:+.1f}",
        block["n"],
        _why(fits, sign),
        unit="points",
        low=block["low"],
        high=block["high"],
        p=matched["p"],
        fits=[fit["effect"] for fit in fits],
    )


def _beyond(block: Block) -> bool | None:
    """Whether an effect, or a likeness, is beyond its matched sets; None if there are too few of them to tell."""
    matched = block.get("matched_random")
    if not matched or matched["draws"] < FEWEST_DRAWS:
        return None
    p: float = block["p"] if "p" in block else matched["p"]  # of a likeness, it stands beside its draws
    return bool(p <= LEVEL)


def _clear(block: Block, sign: int) -> bool:
    return bool(min(sign * block["low"], sign * block["high"]) > 0)


def _exceeds_reconstruction(block: Block, sign: int) -> bool:
    return bool(sign * block["effect"] > sign * block["encode_decode"])


def _one(block: Block, sign: int) -> str:
    gain = sign * (block["donor"] - block["baseline"])
    holds = _beyond(block) is True and _clear(block, sign) and _exceeds_reconstruction(block, sign)
    small = max(sign * block["low"], sign * block["high"]) < QUARTER * gain
    return _decided(holds, _beyond(block) is False and small)


def _why(fits: Sequence[Block], sign: int) -> str:
    """In how many fits the effect is beyond its matched sets, and what else keeps it from holding."""
    draws = min(fit["matched_random"]["draws"] for fit in fits)
    if draws < FEWEST_DRAWS:
        return f"{draws} draws are too few to tell"
    found = []
    if not all(_clear(fit, sign) for fit in fits):
        found.append("its interval has 0 inside, or lies on the other side")
    if not all(_exceeds_reconstruction(fit, sign) for fit in fits):
        found.append("encode-decode alone does as much")
    beyond = sum(_beyond(fit) is True for fit in fits)
    sets = (
        f"beyond {draws} matched sets in {beyond} of {len(fits)} fits" if beyond else f"not beyond {draws} matched sets"
    )
    return "; ".join([*found, sets])


def _restores(edit: Block | None) -> Verdict | None:
    block = None if edit is None else edit.get("base_likeness")
    if edit is None or block is None:
        return None
    matched, beyond = block.get("matched_random"), _beyond(block)
    gone = f"KL to base at the decision {block['kl_before']:.2f} before, {block['kl_after']:.2f} after"
    return _verdict(
        f"Ablated, {edit['model']} becomes base and does not merely break",
        _decided(beyond is True and block["low"] > HALF, beyond is not None and block["high"] < QUARTER),
        block["statistic"],
        f"{matched['draws']} matched sets, 95%: {matched['q95']:.2f}" if matched else "no matched set was measured",
        block["n"],
        gone if beyond is not None else f"{gone}; too few matched sets to tell",
        unit="way",
        low=block["low"],
        high=block["high"],
        p=block.get("p"),
    )


# ------------------------------------------------------------------------------------------- numbers


def share_of(count: int, total: int) -> float:
    """A share; 0 of nothing."""
    return count / total if total else 0.0


def proportions_test(count: int, n: int, other: int, m: int) -> float:
    """Two-sided p of two shares being equal, by the normal approximation with the pooled share."""
    pooled = share_of(count + other, n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)) if n and m else 0.0
    z = abs(count / n - other / m) / error if error else 0.0
    return math.erfc(z / math.sqrt(2))


def tally(found: Mapping[str, Verdict]) -> Sequence[int]:
    """How many hold, do not, and cannot be told."""
    return [sum(v["verdict"] == kind for v in found.values()) for kind in (HOLDS, FAILS, UNKNOWN)]
