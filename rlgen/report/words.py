"""Numbers as a reader wants them, and the page's sentences, generated from the summary and never written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlgen.posttrain.gradients import learnt_nothing
from rlgen.report.judging import LEVEL
from rlgen.report.verdicts import tally
from rlgen.study.checks.notes import FEWEST_DRAWS

Block = Mapping[str, Any]

NOTHING = "\N{EN DASH}"
"""Shown where there is no value."""
_MINUS = "\N{MINUS SIGN}"


def share(value: float | None, digits: int = 1) -> str:
    """A share in per cent: 0.953 is `95.3`."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}".replace("-", _MINUS)


def points(value: float | None, digits: int = 1) -> str:
    """A change of a share in points, signed: 0.29 is `+29.0`."""
    if value is None:
        return NOTHING
    shown = f"{100 * value:+.{digits}f}"
    return shown[1:] if float(shown) == 0 else shown.replace("-", _MINUS)


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with so many significant digits; whole numbers stay whole."""
    if value is None:
        return NOTHING
    if float(value).is_integer():
        return f"{value:,.0f}".replace("-", _MINUS)
    return f"{value:.{digits}g}".replace("-", _MINUS)


def probability(p: float | None) -> str:
    """A p value: two significant digits, or that it is below a thousandth."""
    return "<0.001" if p is not None and p < 0.001 else number(p, 2)


def interval(block: Block | None, signed: bool = False) -> str:
    """A block's 95% interval, as ` [low, high]`; empty if it has none."""
    if not block or block.get("low") is None or block.get("high") is None:
        return ""
    form = points if signed else share
    return f"[{form(block['low'])}, {form(block['high'])}]"


def quantity(value: float | None, unit: str) -> str:
    """A finding's statistic or bound in its unit: `share`, `points` or a count."""
    return {"share": share, "points": points}.get(unit, number)(value) + {"share": "%"}.get(unit, "")


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def counted(count: int, one: str, many: str) -> str:
    """`none is`, `1 is`, `3 are`."""
    return f"{count or 'none'} {one if count < 2 else many}"


def trained_here(summary: Mapping[str, Any]) -> list[str]:
    """Return the arms that this study trained; the others were taken as they are."""
    return [arm for arm, method in summary["arms"].items() if method != "existing"]


def groups(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return what the page calls each group of tasks."""
    own = "trained" if trained_here(summary) else "train-domain"
    return {"train_domain": own, "transfer": "transfer", "unseen": "unseen"}


def idle(summary: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each arm whose first gradients were all zero."""
    found = ((arm, block.get("gradient")) for arm, block in summary["training"].items())
    return [f"{learnt_nothing(arm, gradient)}." for arm, gradient in found if gradient and gradient["nothing_at_first"]]


def zero_steps(summary: Mapping[str, Any]) -> list[str]:
    """Return, of each arm that had any, how many steps had a gradient of exactly zero."""
    found = [(arm, block.get("gradient")) for arm, block in summary["training"].items()]
    return [f"{arm} in {of['zero']} of {of['steps']} steps" for arm, of in found if of and of["zero"]]


def precision(summary: Mapping[str, Any]) -> str:
    """Say in what precision the models ran, and how many of their answers depend on what shares their batch."""
    by_kind: dict[str, list[str]] = {}
    for model in (model for model in summary["models"] if model in summary["precision"]):
        by_kind.setdefault(summary["precision"][model], []).append(model)
    if not by_kind:
        return ""
    ran = f"The models ran in {listed([f'{kind} ({listed(names)})' for kind, names in by_kind.items()])}."
    measured = {model: of for model in summary["models"] if (of := summary["batch_dependence"].get(model))}
    if not measured:
        return ran
    kinds = listed(list(dict.fromkeys(found["dtype"] for found in measured.values())))
    counts = [
        f"{found['different']} of {found['compared']} answers of {model}"
        + (f" ({found['right_changed']} between right and wrong)" if found["right_changed"] else "")
        for model, found in measured.items()
    ]
    return (
        f"{ran} In {kinds} an answer can depend on what shares its batch: asked again in other batches, "
        f"{listed(counts)} differed."
    )


def alarms(summary: Mapping[str, Any]) -> list[str]:
    """What must be read before anything else: nulls that did not come out null."""
    found = []
    null = summary["nulls"].get("base_base")
    if null is not None and not null["passed"]:
        low, high = null["nrn_range"]
        found.append(
            "No feature of the base joined with itself is alive: the null says nothing."
            if null["alive"] == 0
            else f"The base joined with itself must show no feature of one side, yet {null['outside']} of "
            f"{null['alive']} live features have an NRN outside {low:g} to {high:g}. "
            "Believe no count of specific features below."
        )
    noise = summary["nulls"].get("base_noise")
    if noise is not None:
        for name, outside in noise["share_outside_of"].items():
            if outside is not None and noise["share_outside"] is not None and outside <= noise["share_outside"]:
                found.append(
                    f"Weight noise alone puts {share(noise['share_outside'], 2)}% of features outside the NRN range, "
                    f"{name} {share(outside, 2)}%: its specific features are not told apart from noise."
                )
    edited = summary["nulls"].get("interventions")
    if edited is not None and not edited["passed"]:
        found.append(
            f"With base's noised copy in the arm's place, the same edit changes transfer accuracy by "
            f"{points(edited['effect'])} points {interval(edited, signed=True)}, beyond its matched sets: what the "
            "features below do is not told apart from what noise finds."
        )
    return found


def verdict(summary: Mapping[str, Any]) -> str:
    """How many of the paper's claims hold, do not hold, and cannot be told."""
    if not summary["verdicts"]:
        return "This study has none of the parts that the paper's claims are about."
    holds, fails, unknown = tally(summary["verdicts"])
    does = "does" if fails == 1 else "do"
    return f"{holds} of {len(summary['verdicts'])} claims hold; {fails} {does} not; {unknown} cannot be told."


def headline(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was found: what each result is about, and a sentence."""
    return [*_learnt(summary), *_moved(summary), *_features(summary), *_causes(summary)]


def _learnt(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    tasks, means = summary["tasks"]["train_domain"], summary["group_accuracy"]
    values = [(model, means[model]["train_domain"]) for model in summary["models"]]
    if all(found is not None for _, found in values):
        shown = listed([f"{model} {share(found['value'])}% {interval(found)}" for model, found in values])
        yield (
            f"{groups(summary)['train_domain'].capitalize()} tasks",
            (f"On {listed(tasks)} the models answer right: {shown}."),
        )


def _moved(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known = len(trained_here(summary)) == len(summary["arms"])  # what others trained their arms on is not
    for group, lead, why in (
        ("transfer", "Transfer tasks", "never trained on, " if known else ""),
        ("unseen", "Unseen tasks", f"{'nor' if known else 'not'} used to choose features, "),
    ):
        parts = []
        for arm in summary["arms"]:
            found = summary["contrasts"][arm][group]
            if found:
                clear = found["low"] > 0 or found["high"] < 0
                verb = ("gains" if found["value"] > 0 else "loses") if clear else "does not clearly move:"
                amount = points(found["value"]).lstrip(f"+{_MINUS}") if clear else points(found["value"])
                parts.append(f"{arm} {verb} {amount} points {interval(found, signed=True)}")
        if parts:
            yield lead, f"On {listed(summary['tasks'][group])}, {why}against base: {listed(parts)}."


def _features(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, crosscoder in summary["crosscoders"].items():
        if len(crosscoder["models"]) > 2:
            counts = crosscoder["specific_features"]
            shown = listed([f"{counted(counts[model], 'is', 'are')} {model}'s own" for model in crosscoder["models"]])
            yield "Features", f"Of the {crosscoder['alive']} live features of the joint crosscoder {name}, {shown}."


def _causes(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    verbs = {
        "amplify": ("Switched on", "Amplifying"),
        "transplant": ("Transplanted", "Transplanting"),
        "scale": ("Scaled up", "Scaling up"),
        "ablate": ("Switched off", "Ablating"),
        "mean_ablate": ("Held at their means", "Mean-ablating"),
        "revert": ("Put back", "Reverting"),
    }
    for edit, block in summary["interventions"].items():
        lead, verb = verbs[edit]
        count = len(summary["localisation"]["features"])
        if count == 0:
            yield lead, "No feature was localised, so there is nothing to edit."
            continue
        matched = block["matched_random"]
        yield (
            lead,
            f"{verb} the {count} localised feature{'s' if count > 1 else ''} in {block['model']} changes mean "
            f"transfer accuracy by {points(block['effect'])} points {interval(block, signed=True)}. "
            f"{matched['draws']} matched random sets lie between {points(matched['q05'])} and {points(matched['q95'])} "
            f"(5% to 95%): the effect is {apart(block)}. The ceiling, exchanging all activations of that layer at the "
            f"same tokens, is {points(block['ceiling'])}; an edit may exceed it.",
        )


def edits_told(summary: Mapping[str, Any]) -> str:
    """Say what each of the study's edits does."""
    if not summary["interventions"]:
        return ""
    arm = summary["localisation"]["arm"]
    does = {
        "amplify": "amplifying adds the features' mean difference to base",
        "transplant": f"transplanting puts {arm}'s codes of them, on the same tokens, in place of base's",
        "scale": "scaling adds base's own contribution of them once more",
        "ablate": f"ablating takes the features out of {arm}",
        "mean_ablate": f"mean-ablating holds them at their mean codes in {arm}",
        "revert": f"reverting puts base's codes of them in place of {arm}'s",
    }
    text = "; ".join(does[edit] for edit in summary["interventions"])
    return f"{text[0].upper()}{text[1:]}."


def apart(block: Block) -> str:
    """Whether an effect lies beyond its matched random draws, in words."""
    matched = block["matched_random"]
    if matched["draws"] < FEWEST_DRAWS:
        return f"not told apart from what matched features do ({matched['draws']} draws are too few)"
    as_high = sum(value >= block["effect"] for value in matched["values"])
    as_low = sum(value <= block["effect"] for value in matched["values"])
    beyond = (1 + min(as_high, as_low)) / (1 + matched["draws"]) <= LEVEL
    return "beyond what matched features do" if beyond else "not told apart from what matched features do"
