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
