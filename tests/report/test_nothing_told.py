"""Verdicts of which nothing was measured, and verdicts that name what keeps them from being told."""

from typing import Any

import pytest

from rlgen.report.judging import FAILS, HOLDS, UNKNOWN
from rlgen.report.verdicts import verdicts
from tests.report.test_verdicts import block, edited, of, summary, track


def told(given: dict[str, Any], claim: str) -> tuple[str, str]:
    verdict = verdicts(given)[claim]
    return str(verdict["verdict"]), str(verdict["because"])


def nothing_localised(**more: Any) -> dict[str, Any]:
    """A summary as it is when no feature was localised: every edit changes nothing, and so do its controls."""
    nil = block(0.0, half=0.0, p=1.0) | {"features": [], "alpha": 1.0}
    given = summary(interventions=edited(**nil, unseen=nil, fits=[{**nil, "unseen": nil}], **more))
    given["localisation"]["features"] = []
    return given


def test_without_an_item_that_selects_nothing_is_told() -> None:
    given = nothing_localised()
    given["localisation"]["per_task"] = {"max": {"n_items": 0}, "par": {"n_items": 0}}
    assert told(given, "compact_shared_set") == (
        UNKNOWN,
        "on no transfer task has base an item wrong that the arm has right",
    )
    assert verdicts(given)["compact_shared_set"]["n"] == 0


def test_items_without_a_feature_are_told() -> None:
    verdict, because = told(nothing_localised(), "compact_shared_set")
    assert verdict == FAILS
    assert because.endswith("no feature passes")


@pytest.mark.parametrize("claim", ["amplification_helps", "transfers_to_unseen", "ablation_hurts"])
def test_an_edit_of_no_feature_is_no_edit(claim: str) -> None:
    given = nothing_localised()
    assert told(given, claim) == (UNKNOWN, "no feature was localised, so there was nothing to edit")
    assert (verdicts(given)[claim]["n"], verdicts(given)[claim]["statistic"]) == (0, None)


@pytest.mark.parametrize(
    ("changes", "why"), [({"alpha": 0}, "strength is 0"), ({"shift_norm": 0.0}, "difference is 0")]
)
def test_an_edit_that_adds_nothing_is_no_edit(changes: dict[str, Any], why: str) -> None:
    given = summary(interventions=edited(**block(0.0, half=0.0, p=1.0), features=[1], **changes))
    verdict, because = told(given, "amplification_helps")
    assert verdict == UNKNOWN
    assert why in because


def test_an_edit_of_no_feature_restores_nothing() -> None:
    likeness = {"statistic": 0.0, "low": 0.0, "high": 0.0, "n": 600, "p": 1.0, "kl_before": 1.0, "kl_after": 1.0}
    likeness |= {"matched_random": {"draws": 20, "q95": 0.0}}
    verdict, because = told(nothing_localised(base_likeness=likeness), "ablation_restores_base")
    assert verdict == UNKNOWN
    assert "no feature was localised" in because


def test_models_that_do_not_differ_at_the_decision_restore_nothing() -> None:
    given = summary(interventions=edited(turned={"transfer": None}))
    assert told(given, "ablation_restores_base")[0] == UNKNOWN


def test_one_fit_without_a_feature_makes_the_fits_disagree() -> None:
    nil = {**block(0.0, half=0.0, p=1.0), "features": []}
    fits = [{**block(0.3), "features": [1], "unseen": None}, {**nil, "unseen": None}]
    verdict, because = told(summary(interventions=edited(fits=fits)), "amplification_helps")
    assert verdict == UNKNOWN
    assert "no feature was localised" in because
    assert because.endswith("in 1 of 2 fits")


def test_without_an_item_that_measures_nothing_is_told() -> None:
    given = summary(interventions={}, unmeasured=["amplify", "ablate"])
    given["localisation"]["arm"] = "rl"
    for claim, model in (("amplification_helps", "base"), ("ablation_hurts", "rl")):
        assert told(given, claim) == (UNKNOWN, "no item of a transfer task is left to measure on")
        assert model in verdicts(given)[claim]["claim"]
    none = {**block(0.0), "n": 0}
    assert told(summary(interventions=edited(**none)), "amplification_helps") == (UNKNOWN, "no item was measured")


@pytest.mark.parametrize(("arms", "missing"), [({"rl": "grpo"}, "SFT"), ({"sft": "sft"}, "RL")])
def test_with_one_of_the_two_arms_they_are_not_compared(arms: dict[str, str], missing: str) -> None:
    given = summary(arms=arms)
    given["crosscoders"] = {k: c for k, c in given["crosscoders"].items() if set(c["models"]) <= {"base", *arms}}
    given["tracking"] = {k: t for k, t in given["tracking"].items() if t["arm"] in arms}
    for claim in ("sft_more_specific", "rl_changes_few", "sft_stabilises_early"):
        verdict, because = told(given, claim)
        assert verdict == UNKNOWN, claim
        assert f"trained by {missing}" in because


def test_arms_that_others_trained_are_not_compared_at_all() -> None:
    given = summary(arms={"sft": "existing", "rl": "existing"})
    assert not {"sft_more_specific", "rl_changes_few", "sft_stabilises_early"} & verdicts(given).keys()


@pytest.mark.parametrize(("place", "who"), [("base-sft", "sft"), ("base-rl", "rl")])
def test_a_dead_dictionary_changes_nothing(place: str, who: str) -> None:
    given = summary()
    given["crosscoders"][place] |= {"alive": 0, "nrn": {"outside": 0}}
    verdict, because = told(given, "rl_changes_few")
    assert verdict == UNKNOWN
    assert f"no feature of {who} is alive" in because


def test_without_a_specific_feature_neither_has_more() -> None:
    given = summary()
    given["crosscoders"]["base-sft-rl"]["specific_features"] = {"base": 0, "sft": 0, "rl": 0}
    verdict, because = told(given, "sft_more_specific")
    assert verdict == UNKNOWN
    assert "no feature is specific to either" in because


@pytest.mark.parametrize(
    ("noise", "why"),
    [(None, "no null of weight noise"), ({"alive": 0, "outside": 0}, "no feature of the noise null is alive")],
)
def test_a_noise_null_with_nothing_to_compare_is_none(noise: dict[str, int] | None, why: str) -> None:
    given = summary(nulls={"base_base": {"passed": True}} | ({"base_noise": noise} if noise else {}))
    verdict, because = told(given, "sft_more_specific")
    assert verdict == UNKNOWN
    assert why in because


def test_a_dead_null_says_so() -> None:
    given = summary()
    given["nulls"]["base_base"] = {"passed": False, "alive": 0}
    assert "says nothing" in told(given, "rl_changes_few")[1]


@pytest.mark.parametrize("key", ["overlap", "overlap_low", "overlap_high"])
def test_an_overlap_that_could_not_be_computed_is_no_verdict(key: str) -> None:
    broken = track("sft", 0.8)
    broken[key] = [[None] * 5 for _ in range(5)]
    for arms in ((broken, track("rl", 0.3)), (track("sft", 0.8), {**broken, "arm": "rl"})):
        verdict, because = told(summary(tracking=dict(zip("ab", arms, strict=True))), "sft_stabilises_early")
        assert verdict == UNKNOWN
        assert "could not be computed" in because


@pytest.mark.parametrize("mean", [None, 0.0])
def test_an_overlap_without_its_null_is_no_verdict(mean: float | None) -> None:
    sft = {**track("sft", 0.8), "null": {"mean": mean}}
    verdict, because = told(summary(tracking={"a": sft, "b": track("rl", 0.3)}), "sft_stabilises_early")
    assert verdict == UNKNOWN
    assert "no split-half null" in because


@pytest.mark.parametrize("missing", [{}, {"unseen": None}])
def test_a_fit_that_knows_nothing_of_unseen_tasks_breaks_nothing(missing: dict[str, Any]) -> None:
    fits = [{**block(0.3), "unseen": block(0.3)}, {**block(0.3), **missing}]
    assert of(summary(interventions=edited(fits=fits)), "transfers_to_unseen") == HOLDS
    bare = {name: {k: v for k, v in edit.items() if k != "unseen"} for name, edit in edited().items()}
    assert "transfers_to_unseen" not in verdicts(summary(interventions=bare))


def test_a_permutation_null_without_p_is_no_verdict() -> None:
    given = summary()
    given["localisation"]["null"] = {"strength": {"p": None}, "overlap": {"mean": None}}
    assert of(given, "compact_shared_set") == UNKNOWN


@pytest.mark.parametrize(
    ("claim", "changes", "words"),
    [
        ("sft_more_specific", {"specific": (12, 10)}, "may be chance"),
        ("rl_changes_few", {"outside": 395}, "may be chance"),
        ("sft_stabilises_early", {"track": (0.5, 0.4)}, "intervals meet"),
        ("sft_stabilises_early", {"track": (0.55, 0.2)}, "too little of it"),
        ("compact_shared_set", {"p": 0.2}, "items at random choose as strong a set"),
        ("compact_shared_set", {"p": 0.2, "draws": 5}, "5 permutations are too few to tell"),
        ("amplification_helps", {"edit": block(0.1, half=0.09, p=0.3)}, "reaches a quarter of the arm's gain"),
        ("amplification_helps", {"edit": block(0.0, p=0.6, baseline=0.9, donor=0.5)}, "no gain to compare with"),
    ],
)
def test_a_verdict_that_cannot_be_told_names_the_condition(claim: str, changes: dict[str, Any], words: str) -> None:
    given = summary()
    if "specific" in changes:
        given["crosscoders"]["base-sft-rl"]["specific_features"] = dict(
            zip(("sft", "rl"), changes["specific"], strict=True)
        )
    if "outside" in changes:
        given["crosscoders"]["base-rl"]["nrn"]["outside"] = changes["outside"]
    if "track" in changes:
        given["tracking"] = {arm: track(arm, v) for arm, v in zip(("sft", "rl"), changes["track"], strict=True)}
    if "p" in changes:
        given["localisation"]["null"] |= {"strength": {"p": changes["p"]}, "draws": changes.get("draws", 200)}
    if "edit" in changes:
        given["interventions"] = edited(**changes["edit"])
    verdict, because = told(given, claim)
    assert verdict == UNKNOWN
    assert words in because


@pytest.mark.parametrize(("low", "high", "p", "words"), [(0.6, 0.9, 0.3, "not beyond 20"), (0.2, 0.6, 0.04, "neither")])
def test_a_likeness_that_cannot_be_told_names_the_condition(low: float, high: float, p: float, words: str) -> None:
    likeness = {"statistic": 0.5, "low": low, "high": high, "n": 600, "p": p, "kl_before": 1.0, "kl_after": 0.5}
    likeness |= {"matched_random": {"draws": 20, "q95": 0.05}}
    verdict, because = told(summary(interventions=edited(base_likeness=likeness)), "ablation_restores_base")
    assert verdict == UNKNOWN
    assert words in because


def test_whatever_has_no_number_behind_it_cannot_be_told() -> None:
    """The property over all of the above: n = 0 never holds and never fails."""
    given = nothing_localised(turned={"transfer": None})
    given["localisation"]["per_task"] = {}
    given["crosscoders"]["base-sft-rl"]["specific_features"] = {"sft": 0, "rl": 0}
    for pair in ("base-sft", "base-rl"):
        given["crosscoders"][pair] |= {"alive": 0, "nrn": {"outside": 0}}
    given["tracking"] = {"a": {**track("sft", 1.0), "checkpoints": ["sft"]}, "b": track("rl", 0.3)}
    found = verdicts(given)
    assert {verdict["n"] for verdict in found.values()} == {0}
    assert {verdict["verdict"] for verdict in found.values()} == {UNKNOWN}
    assert all(verdict["because"] for verdict in found.values())
