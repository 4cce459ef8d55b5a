"""The page describes the parts that a study has, and leaves out those that it does not have."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from rlgen.report.page import make_report
from rlgen.study.stages import ReportSettings
from tests.report.test_page import Reader

if TYPE_CHECKING:
    from tests.report.conftest import Tree


@pytest.fixture
def page(tree: Tree) -> str:
    return tree.write().report()


@pytest.mark.parametrize("problems", [False, True])
def test_of_arms_that_others_trained_no_training_is_told(tree: Tree, problems: bool) -> None:
    tree.problems, tree.methods = problems, {"sft": "existing", "rl": "existing"}
    page = tree.write().report()
    text = Reader(page).text
    told = re.sub(r"post-train(ed|ing)|[Tt]rain-domain|\(train\)|no arm is trained on them here", "", text)
    assert not re.findall(r".{60}train.{60}", told)
    assert ("no arm is trained on them here" in text) == problems
    for said in ("never trained on", "the same in the same order", "both arms", "How training went", "gradient"):
        assert said not in text, said
    assert "reinforcement learning generalises" not in page.replace("A synthetic study", "")
    assert ('id="problems"' in page, 'href="#problems"' in page) == (problems, problems)
    assert 'id="training"' not in page
    assert "sft, taken as it is; rl, taken as it is" in text
    assert "Train-domain tasks" in text
    assert "Trained tasks" not in text
    assert "On max, par and cnt, against base:" in text
    assert "On min and dif, not used to choose features, against base:" in text


def test_of_one_arm_that_was_trained_here_only_its_own_training_is_told(tree: Tree) -> None:
    tree.methods = {"sft": "existing", "rl": "grpo"}
    text = Reader(tree.write().report()).text
    assert "none of the problems that rl was trained on is from there" in text
    assert "never trained on" not in text, "of the other one nobody knows"
    assert "both arms" not in text
    assert re.search(r"By optimiser step ?; rl: 450 steps", text)
    assert "no arm of this study was trained by SFT" in text


def test_the_usual_title_is_not_of_a_study_that_trains_nothing(tree: Tree) -> None:
    tree.problems, tree.methods = False, {"sft": "existing", "rl": "existing"}
    tree.write().summarise()
    make_report(
        ReportSettings.model_validate({"report": {}}),
        summary=tree.paths.summary,
        root=tree.root,
        out=tree.paths.report,
    )
    page = (tree.paths.report / "index.html").read_text()
    assert "<h1>What post-training changed</h1>" in page
    assert "generalises" not in page


def test_both_arms_of_the_usual_study_are_told_of(page: str) -> None:
    text = Reader(page).text
    assert "both arms were trained on the same problems, none of them from there" in text
    assert "On max, par and cnt, never trained on, against base:" in text
    assert "On min and dif, nor used to choose features, against base:" in text
    assert "sft by sft, rl by grpo" in text


def test_the_claim_whose_number_is_a_share_of_the_way_is_named(tree: Tree) -> None:
    path = tree.write().paths.intervention("base-rl", "ablate") / "effects.json"
    effects = json.loads(path.read_text())
    effects["turned"]["transfer"] = {
        **{"statistic": 0.7, "low": 0.6, "high": 0.8, "n": 60, "p": 0.04, "towards": "base"},
        **{"kl_before": 1.0, "kl_after": 0.3, "matched_random": {"draws": 20, "q95": 0.1, "mean": 0.0, "q05": 0.0}},
    }
    path.write_text(json.dumps(effects))
    text = Reader(tree.report()).text
    assert "The number of “Ablated, rl becomes base and does not merely break” is a share of the way" in text
    tree.edits = ["amplify", "transplant"]
    assert "share of the way" not in Reader(tree.write().report()).text
    tree.localisation = False
    assert "share of the way" not in Reader(tree.write().report()).text


@pytest.mark.parametrize("edits", [[], ["ablate"], ["amplify"], ["revert", "scale"]])
def test_only_the_edits_that_were_made_are_told_of(tree: Tree, edits: list[str]) -> None:
    tree.edits = edits
    page = tree.write().report()
    text = Reader(page).text.lower()
    said = {
        "amplify": "amplifying adds",
        "transplant": "transplanting puts",
        "ablate": "ablating takes",
        "scale": "scaling adds",
        "revert": "reverting puts",
    }
    assert {edit for edit, words in said.items() if words in text} == set(edits)
    assert ('id="interventions"' in page, 'href="#interventions"' in page) == (bool(edits), bool(edits))
    assert 'id="localisation"' in page


def test_an_arm_that_had_nothing_to_learn_from_stands_before_anything_found(tree: Tree) -> None:
    tree.gradients = {"rl": [0.0] * 12, "sft": [1.0, 0.0]}
    page = tree.write().report()
    assert page.index('role="alert"') < page.index('id="found"')
    text = Reader(page).text
    assert (
        "An arm had nothing to learn from at first. rl: the gradient was exactly zero in each of its first 12" in text
    )
    assert "The gradient was exactly zero for sft in 1 of 40 steps and rl in 12 of 450 steps" in text
    assert page.count('role="alert"') == 1


def test_the_precision_and_its_price_are_told(tree: Tree) -> None:
    tree.precision = {"precision": "float32"}
    text = Reader(tree.write().report()).text
    assert "The models ran in float32 (base, sft and rl)." in text
    assert "shares its batch" not in text
    measured = {"dtype": "bfloat16", "compared": 32, "different": 14, "right_changed": 2, "batch_size": {"max": 1}}
    tree.precision = {"precision": "bfloat16", "batch_dependence": measured}
    text = Reader(tree.write().report()).text
    assert "In bfloat16 an answer can depend on what shares its batch: asked again in other batches, 14 of 32" in text
    assert "14 of 32 answers of base (2 between right and wrong)" in text


def test_matched_sets_without_a_divergence_are_left_out(tree: Tree) -> None:
    path = tree.write().paths.intervention("base-rl", "amplify") / "effects.json"
    effects = json.loads(path.read_text())
    for key in ("matched_random", "p"):
        del effects["turned"]["transfer"][key]
    path.write_text(json.dumps(effects))
    assert re.search(r"of the way to rl, in KL divergence\.", Reader(tree.report()).text)


def test_nulls_with_nothing_to_compare_are_no_nulls(tree: Tree) -> None:
    tree.write()
    path = tree.paths.attribution("null-base-base") / "attribution.json"
    empty = {"alive": 0, "nrn": {"outside": 0, "share_outside": None, "quantiles": {}}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **empty}))
    path = tree.paths.intervention("null-base-noise", "amplify") / "effects.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "features": []}))
    text = Reader(tree.report()).text
    assert "? no feature is alive" in text
    assert "? no feature was localised, so nothing was edited" in text
    assert re.search(r"\? cannot tell Base joined with itself", text)
