"""Verdicts on edits: whether what they do is beyond their controls (rules: METHOD, verdicts)."""

from __future__ import annotations

from collections.abc import Sequence

from rlgen.interventions.effects import EXPECTED_SIGN
from rlgen.report.judging import (
    FAILS,
    HALF,
    HOLDS,
    LEVEL,
    QUARTER,
    UNKNOWN,
    Block,
    Verdict,
    decided,
    joined,
    make,
    nothing,
)
from rlgen.study.checks.notes import FEWEST_DRAWS


def edited(edit: Block | None, group: str, claim: str) -> Verdict | None:
    """Judge what an edit does to accuracy on a group of tasks. None if the study does not ask.

    Args:
        edit: The edit's part of the summary.
        group: `transfer` or `unseen`.
        claim: The claim, with `{model}` where the edited model's name goes.
    """
    block = None if edit is None else edit if group == "transfer" else edit.get(group)
    if edit is None or block is None:
        return None
    sign = EXPECTED_SIGN[edit["edit"]]
    fits = _fits(edit, block, group)
    reasons = [_idle(edit["edit"], fit) or _unmeasured(own) for fit, own in fits]
    each = [UNKNOWN if reason else _one(own, sign) for (_, own), reason in zip(fits, reasons, strict=True)]
    verdict = each[0] if len(set(each)) == 1 else UNKNOWN
    said = claim.format(model=edit["model"])
    if all(reasons):
        return nothing(said, str(reasons[0]), unit="points")
    matched = block["matched_random"]
    return make(
        said,
        verdict,
        block["effect"],
        f"{matched['draws']} matched sets: {100 * matched['q05']:+.1f} to {100 * matched['q95']:+.1f}; "
        f"encode-decode {100 * block['encode_decode']:+.1f}; ceiling {100 * block['ceiling']:+.1f}",
        block["n"],
        joined(*dict.fromkeys(filter(None, reasons)), _why([own for _, own in fits], each, sign)),
        unit="points",
        low=block["low"],
        high=block["high"],
        p=matched["p"],
        fits=[own["effect"] for _, own in fits],
    )


def _fits(edit: Block, block: Block, group: str) -> list[tuple[Block, Block]]:
    """Return every fit of the edit and its effects on the group; those without any are left out."""
    each = [(fit, fit if group == "transfer" else fit.get(group)) for fit in edit.get("fits", [])]
    return [(fit, own) for fit, own in each if own is not None] or [(edit, block)]


def _idle(kind: str, fit: Block) -> str | None:
    """Return why an edit changed nothing at all; None if it did."""
    if fit.get("features") == []:
        return "no feature was localised, so there was nothing to edit"
    if fit.get("alpha") == 0:
        return "the edit's strength is 0, so nothing was edited"
    if kind == "amplify" and fit.get("shift_norm") == 0:
        return "the features' mean difference is 0, so nothing was added"
    return None


def _unmeasured(block: Block) -> str | None:
    return None if block["n"] else "no item was measured"


def _beyond(block: Block) -> bool | None:
    """Return whether an effect, or a likeness, is beyond its matched sets; None if they are too few to tell."""
    matched = block.get("matched_random")
    if not matched or matched["draws"] < FEWEST_DRAWS:
        return None
    p = block["p"] if "p" in block else matched.get("p")  # a likeness keeps p with its draws
    return None if p is None else bool(p <= LEVEL)


def _clear(block: Block, sign: int) -> bool:
    return bool(min(sign * block["low"], sign * block["high"]) > 0)


def _exceeds_reconstruction(block: Block, sign: int) -> bool:
    return bool(sign * block["effect"] > sign * block["encode_decode"])


def _small(block: Block, sign: int) -> bool:
    """Return whether the interval lies below a quarter of what the arm gains."""
    gain = sign * (block["donor"] - block["baseline"])
    return bool(max(sign * block["low"], sign * block["high"]) < QUARTER * gain)


def _one(block: Block, sign: int) -> str:
    holds = _beyond(block) is True and _clear(block, sign) and _exceeds_reconstruction(block, sign)
    return decided(holds, _beyond(block) is False and _small(block, sign))


def _why(fits: Sequence[Block], verdicts: Sequence[str], sign: int) -> str:
    """Return in how many fits the effect is beyond its matched sets, and what else keeps it from being told."""
    draws = min(fit["matched_random"]["draws"] for fit in fits)
    if draws < FEWEST_DRAWS:
        return f"{draws} draws are too few to tell"
    doubtful = [fit for fit, verdict in zip(fits, verdicts, strict=True) if verdict == UNKNOWN]
    unclear = not all(_clear(fit, sign) for fit in fits)
    as_much = not all(_exceeds_reconstruction(fit, sign) for fit in fits)
    wide = any(_beyond(fit) is False and not _small(fit, sign) for fit in doubtful)
    better = all(sign * (fit["donor"] - fit["baseline"]) > 0 for fit in doubtful)
    beyond = sum(_beyond(fit) is True for fit in fits)
    sets = (
        f"beyond {draws} matched sets in {beyond} of {len(fits)} fits" if beyond else f"not beyond {draws} matched sets"
    )
    return joined(
        "its interval has 0 inside, or lies on the other side" if unclear else None,
        "encode-decode alone does as much" if as_much else None,
        "its interval reaches a quarter of the arm's gain" if wide and better else None,
        "the other model is not the better one, so there is no gain to compare with" if wide and not better else None,
        "the fits disagree" if {HOLDS, FAILS} <= set(verdicts) else None,
        sets,
    )


def restores(edit: Block | None) -> Verdict | None:
    """Judge whether the ablated arm becomes base. None if the study does not ask."""
    if edit is None:
        return None
    claim, block = f"Ablated, {edit['model']} becomes base and does not merely break", edit.get("base_likeness")
    if idle := _idle(edit["edit"], edit):
        return nothing(claim, idle, unit="way")
    if block is None:
        asked = "turned" in edit  # else the summary knows nothing of it
        why = "the two models do not differ at the decision, or it was not measured"
        return nothing(claim, why, unit="way") if asked else None
    matched, beyond = block.get("matched_random"), _beyond(block)
    doubt = None
    if beyond is None:
        doubt = "too few matched sets to tell"
    elif not beyond and block["low"] > HALF:
        doubt = f"not beyond {matched['draws']} matched sets"
    elif block["low"] <= HALF and block["high"] >= QUARTER:
        doubt = "its interval lies neither above a half nor below a quarter of the way"
    return make(
        claim,
        decided(beyond is True and block["low"] > HALF, beyond is not None and block["high"] < QUARTER),
        block["statistic"],
        f"{matched['draws']} matched sets, 95%: {matched['q95']:.2f}" if matched else "no matched set was measured",
        block["n"],
        joined(f"KL to base at the decision {block['kl_before']:.2f} before, {block['kl_after']:.2f} after", doubt),
        unit="way",
        low=block["low"],
        high=block["high"],
        p=block.get("p"),
    )
