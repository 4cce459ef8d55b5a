"""The miniature study's finding, read from a finished run's summary.json: `make demo`, then `pytest tests/miniature`.

The bounds are the study's own claims (README, "What it finds"); they are fixed before the run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SUMMARY = Path(os.environ.get("RLGEN_SUMMARY", ROOT / "results/mini/summary.json"))

pytestmark = pytest.mark.skipif(
    not SUMMARY.is_file(), reason=f"no finished miniature study at {SUMMARY}: `make demo` first"
)


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SUMMARY.read_text())
    return found


def accuracy(summary: dict[str, Any], model: str, group: str) -> float:
    return fmean(summary["accuracy"][model][task]["value"] for task in summary["tasks"][group])


def test_rl_learns_the_trained_task(summary: dict[str, Any]) -> None:
    rl, base = (accuracy(summary, model, "train_domain") for model in ("rl", "base"))
    assert rl >= 0.85
    assert rl >= base + 0.30


@pytest.mark.parametrize("group", ["transfer", "unseen"])
def test_rl_generalises(summary: dict[str, Any], group: str) -> None:
    assert accuracy(summary, "rl", group) >= accuracy(summary, "base", group) + 0.20


@pytest.mark.parametrize("group", ["transfer", "unseen"])
def test_sft_forgets(summary: dict[str, Any], group: str) -> None:
    assert accuracy(summary, "sft", group) <= accuracy(summary, "base", group) - 0.15


def test_sft_has_more_features_of_its_own(summary: dict[str, Any]) -> None:
    specific = summary["crosscoders"]["base-sft-rl"]["specific_features"]
    assert specific["sft"] > specific["rl"]


def test_amplifying_localised_features_raises_transfer(summary: dict[str, Any]) -> None:
    amplify = summary["interventions"]["amplify"]
    assert 1 <= len(summary["localisation"]["features"]) <= 20
    assert amplify["matched_random"]["draws"] >= 20
    assert amplify["effect"] >= 0.15
    assert amplify["effect"] > amplify["matched_random"]["q95"]


@pytest.mark.parametrize("group", ["transfer", "unseen"])
def test_transplanting_recovers_half_of_the_ceiling_beyond_every_matched_set(
    summary: dict[str, Any], group: str
) -> None:
    transplant = summary["interventions"]["transplant"]
    block = transplant if group == "transfer" else transplant[group]
    assert block["effect"] >= 0.5 * block["ceiling"] > 0
    assert block["effect"] > max(block["matched_random"]["values"])
    assert block["effect"] >= 2 * block["matched_random"]["q95"]


def test_matched_sets_act_by_how_far_they_push_the_same_decision(summary: dict[str, Any]) -> None:
    slopes = summary["interventions"]["transplant"]["slopes"]
    assert slopes["edit"] > max(slopes["matched"])
    assert slopes["correlation"] > 0.5


def test_the_ablated_model_is_held_against_base(summary: dict[str, Any]) -> None:
    likeness = summary["interventions"]["ablate"]["base_likeness"]
    assert {"statistic", "low", "high", "n", "p", "matched_random"} <= likeness.keys()


def test_every_claim_has_its_verdict(summary: dict[str, Any]) -> None:
    claims = {"sft_more_specific", "sft_stabilises_early", "rl_changes_few", "compact_shared_set"}
    claims |= {"amplification_helps", "transplantation_helps", "transfers_to_unseen", "ablation_hurts"}
    assert claims <= summary["verdicts"].keys()
    for verdict in summary["verdicts"].values():
        assert {"verdict", "statistic", "control", "n"} <= verdict.keys()
        assert verdict["verdict"] in ("holds", "does not hold", "cannot tell")


def test_the_edit_finds_nothing_in_noise(summary: dict[str, Any]) -> None:
    assert summary["nulls"]["interventions"]["passed"]


@pytest.mark.parametrize("edit", ["ablate", "amplify", "transplant"])
def test_every_control_stands_beside_the_effect(summary: dict[str, Any], edit: str) -> None:
    block = summary["interventions"][edit]
    for scope in [block, block["unseen"], *block["tasks"].values()]:
        for key in ("effect", "matched_random", "random_direction", "encode_decode", "ceiling"):
            assert key in scope


def test_base_with_itself_finds_nothing(summary: dict[str, Any]) -> None:
    assert summary["nulls"]["base_base"]["passed"]


@pytest.mark.skipif("RLGEN_SUMMARY" in os.environ, reason="another study's summary was given")
def test_nothing_is_left_to_be_done() -> None:
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "-n"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert "Nothing to be done" in done.stdout + done.stderr
