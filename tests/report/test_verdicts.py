"""Verdicts, from numbers that leave no doubt."""

from typing import Any

import pytest

from rlgen.evaluation.scoring import sign_test, wilson
from rlgen.report.judging import FAILS, HOLDS, UNKNOWN, proportions_test
from rlgen.report.verdicts import verdicts


def block(effect: float, half: float = 0.02, p: float = 0.04, draws: int = 20, **more: Any) -> dict[str, Any]:
    matched = {"mean": 0.0, "q05": -0.03, "q95": 0.03, "draws": draws, "p": p}
    found = {"effect": effect, "low": effect - half, "high": effect + half, "n": 600, "matched_random": matched}
    return {**found, "encode_decode": 0.0, "ceiling": 0.2, "baseline": 0.5, "donor": 0.9, **more}


def summary(**changes: Any) -> dict[str, Any]:
    pair = {"alive": 1000, "nrn": {"outside": 400, "share_outside": 0.4}}
    crosscoders = {
        "base-sft": {"models": ["base", "sft"], **pair},
        "base-rl": {"models": ["base", "rl"], "alive": 1000, "nrn": {"outside": 150}},
        "base-sft-rl": {"models": ["base", "sft", "rl"], "specific_features": {"base": 0, "sft": 30, "rl": 5}},
    }
    strength = {"p": 0.01, "observed": 2.0}
    localisation = {
        **{"features": [1, 2], "top": 20, "per_task": {"max": {"n_items": 50}}},
        "null": {"strength": strength, "overlap": {"mean": 0.4}},
    }
    edits = {
        "amplify": {"edit": "amplify", "model": "base", **block(0.3), "unseen": block(0.3)},
        "ablate": {"edit": "ablate", "model": "rl", **block(-0.3, baseline=0.9, donor=0.5), "unseen": None},
    }
    nulls = {"base_base": {"passed": True}, "base_noise": {"alive": 1000, "outside": 100}}
    tracking = {arm: track(arm, value) for arm, value in (("sft", 0.8), ("rl", 0.3))}
    found = {"arms": {"sft": "sft", "rl": "grpo"}, "crosscoders": crosscoders, "localisation": localisation}
    return {**found, "interventions": edits, "nulls": nulls, "tracking": tracking, **changes}


def track(arm: str, value: float) -> dict[str, Any]:
    found = {"arm": arm, "checkpoints": list("12345"), "null": {"mean": 0.9}, "top": 50}
    around = {"overlap": value, "overlap_low": value - 0.1, "overlap_high": value + 0.1}
    return {**found, **{key: [[share] * 5 for _ in range(5)] for key, share in around.items()}}


def edited(**changes: Any) -> dict[str, Any]:
    interventions = summary()["interventions"]
    return {name: {**interventions[name], **changes} for name in interventions}


def of(given: dict[str, Any], claim: str) -> str:
    return str(verdicts(given)[claim]["verdict"])


def test_where_there_is_no_doubt_every_claim_holds() -> None:
    found = verdicts(summary())
    assert {name: verdict["verdict"] for name, verdict in found.items()} == dict.fromkeys(found, HOLDS)
    assert set(found) == {
        *("sft_more_specific", "sft_stabilises_early", "rl_changes_few", "compact_shared_set"),
        *("amplification_helps", "transfers_to_unseen", "ablation_hurts"),
    }
    assert all({"verdict", "statistic", "control", "n"} <= verdict.keys() for verdict in found.values())


def test_the_other_way_round_none_holds() -> None:
    given = summary(tracking={"a": track("sft", 0.2), "b": track("rl", 0.8)})
    given["crosscoders"]["base-sft-rl"]["specific_features"] = {"base": 0, "sft": 5, "rl": 30}
    given["crosscoders"]["base-rl"]["nrn"]["outside"] = 700
    given["localisation"]["features"] = []
    given["interventions"] = edited(**block(0.0, p=0.6), unseen=block(0.0, p=0.6))
    given["interventions"]["ablate"] |= {"baseline": 0.9, "donor": 0.5}
    assert {verdict["verdict"] for verdict in verdicts(given).values()} == {FAILS}


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        ("amplification_helps", block(0.05, half=0.1)),
        ("amplification_helps", block(0.3, draws=10)),
        ("amplification_helps", block(0.3, encode_decode=0.31)),
        ("ablation_hurts", block(-0.3, p=0.2, baseline=0.9, donor=0.5)),
    ],
)
def test_doubt_is_no_verdict(claim: str, changes: dict[str, Any]) -> None:
    assert of(summary(interventions=edited(**changes)), claim) == UNKNOWN


@pytest.mark.parametrize("claim", ["amplification_helps", "transfers_to_unseen", "ablation_hurts"])
@pytest.mark.parametrize("effect", [0.01, -0.01])
def test_too_few_draws_tell_nothing_however_small_the_effect(claim: str, effect: float) -> None:
    few = block(effect, p=0.6, draws=5)
    assert of(summary(interventions=edited(**few, unseen=few)), claim) == UNKNOWN


def test_what_failed_is_named() -> None:
    for changes, words in (
        (block(0.3, encode_decode=0.31), "encode-decode"),
        (block(0.3, p=0.2), "not beyond"),
        (block(0.05, half=0.1, p=0.04), "interval"),
    ):
        assert words in verdicts(summary(interventions=edited(**changes)))["amplification_helps"]["because"]


def test_an_arm_that_is_worse_has_no_gain_to_be_a_quarter_of() -> None:
    worse = block(0.0, p=0.6, baseline=0.9, donor=0.5)
    assert of(summary(interventions=edited(**worse)), "amplification_helps") == UNKNOWN


def test_without_an_earlier_checkpoint_nothing_stabilises() -> None:
    alone = {**track("sft", 1.0), "checkpoints": ["sft"]}
    assert of(summary(tracking={"a": alone, "b": track("rl", 0.3)}), "sft_stabilises_early") == UNKNOWN


def test_without_intervals_nothing_stabilises() -> None:
    bare = {key: value for key, value in track("sft", 0.8).items() if key not in ("overlap_low", "overlap_high")}
    assert of(summary(tracking={"a": bare, "b": track("rl", 0.3)}), "sft_stabilises_early") == UNKNOWN


def test_intervals_that_meet_are_no_verdict() -> None:
    given = summary(tracking={"a": track("sft", 0.5), "b": track("rl", 0.4)})
    assert of(given, "sft_stabilises_early") == UNKNOWN


def test_shares_that_are_as_good_as_equal_are_no_verdict() -> None:
    given = summary()
    given["crosscoders"]["base-rl"]["nrn"]["outside"] = 395
    assert of(given, "rl_changes_few") == UNKNOWN


def test_a_set_that_random_items_choose_as_well_is_no_verdict() -> None:
    given = summary()
    given["localisation"]["null"]["strength"]["p"] = 0.2
    assert of(given, "compact_shared_set") == UNKNOWN


def test_noise_that_is_not_held_against_sft_is_no_verdict() -> None:
    given = summary()
    del given["crosscoders"]["base-sft"]
    assert of(given, "sft_more_specific") == UNKNOWN


@pytest.mark.parametrize("effect", [0.3, 0.0])
def test_a_transplant_is_judged_and_unseen_tasks_by_it(effect: float) -> None:
    one = block(effect, p=0.04 if effect else 0.6)
    moved = {"edit": "transplant", "model": "base", **one, "unseen": one}
    given = summary(interventions={**summary()["interventions"], "transplant": moved})
    wanted = HOLDS if effect else FAILS
    assert of(given, "transplantation_helps") == of(given, "transfers_to_unseen") == wanted
    moved["unseen"] = None
    assert of(given, "transfers_to_unseen") == HOLDS  # by amplification


def test_a_fit_without_unseen_items_is_left_out() -> None:
    fits = [{**block(0.3), "unseen": block(0.3)}, {**block(0.3), "unseen": None}]
    assert of(summary(interventions=edited(fits=fits)), "transfers_to_unseen") == HOLDS


def test_as_many_features_by_noise_are_no_verdict() -> None:
    given = summary()
    given["nulls"]["base_noise"]["outside"] = 390
    assert of(given, "sft_more_specific") == UNKNOWN


def test_fits_that_disagree_are_no_verdict() -> None:
    fits = [{**block(0.3), "unseen": block(0.3)}, {**block(0.3), "unseen": block(0.0, p=0.6)}]
    given = summary(interventions=edited(fits=fits))
    assert of(given, "amplification_helps") == HOLDS
    assert of(given, "transfers_to_unseen") == UNKNOWN
    assert verdicts(given)["transfers_to_unseen"]["because"].endswith("in 1 of 2 fits")


def test_a_failed_null_takes_every_verdict_that_rests_on_it() -> None:
    given = summary()
    given["nulls"]["base_base"]["passed"] = False
    assert {verdict["verdict"] for verdict in verdicts(given).values()} == {UNKNOWN}
    given = summary()
    given["nulls"]["interventions"] = {"passed": False}
    unknown = {name for name, verdict in verdicts(given).items() if verdict["verdict"] == UNKNOWN}
    assert unknown == {"amplification_helps", "transfers_to_unseen"}


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.6, 0.9, HOLDS), (0.0, 0.1, FAILS), (0.2, 0.6, UNKNOWN)])
def test_whether_the_ablated_model_is_base(low: float, high: float, verdict: str) -> None:
    matched = {"draws": 20, "q95": 0.05}
    likeness = {"statistic": (low + high) / 2, "low": low, "high": high, "n": 600, "p": 0.04}
    likeness |= {"matched_random": matched, "kl_before": 1.0, "kl_after": 0.5}
    assert of(summary(interventions=edited(base_likeness=likeness)), "ablation_restores_base") == verdict


@pytest.mark.parametrize("matched", [{"draws": 3, "q95": 0.05}, None])
def test_too_few_draws_say_nothing_of_likeness(matched: dict[str, Any] | None) -> None:
    likeness: dict[str, Any] = {"statistic": 0.1, "low": 0.0, "high": 0.2, "n": 600, "kl_before": 1.0, "kl_after": 0.9}
    likeness |= {"p": 0.25, "matched_random": matched} if matched else {}
    found = verdicts(summary(interventions=edited(base_likeness=likeness)))
    assert found["ablation_restores_base"]["verdict"] == UNKNOWN


def test_what_a_study_leaves_out_has_no_verdict() -> None:
    given = summary(interventions={}, localisation=None, tracking={}, nulls={})
    assert set(verdicts(given)) == {"sft_more_specific", "rl_changes_few"}


def test_tests_give_the_known_values() -> None:
    assert sign_test(5, 5) == 1
    assert sign_test(6, 0) == pytest.approx(2 / 64)
    assert proportions_test(50, 100, 50, 100) == 1
    assert proportions_test(60, 100, 40, 100) == pytest.approx(0.004678, rel=1e-3)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


# ------------------------------------------------------------------------------------- nothing to be told


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
