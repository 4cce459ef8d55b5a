"""What is in summary.json, and where it comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from rlgen.errors import StudyError
from rlgen.report.contrasts import contrasts, mean_over_tasks, paired_tests
from rlgen.report.summary import plain, read_summary
from rlgen.stage import write_json

if TYPE_CHECKING:
    from tests.report.conftest import Tree

EFFECT = {"effect", "matched_random", "random_direction", "encode_decode", "ceiling", "n", "low", "high"}


def test_holds_every_key_that_readers_rely_on(tree: Tree) -> None:
    summary = tree.write().summarise()
    assert summary["tasks"] == tree.tasks
    assert (summary["problems"]["kept"], summary["problems"]["contaminated"]) == (660, {"max": 3})
    assert [source["read"] for source in summary["problems"]["sources"]] == [640, 25]
    for model in ("base", "sft", "rl"):
        for tasks in tree.tasks.values():
            for task in tasks:
                assert summary["accuracy"][model][task].keys() == {"value", "n", "low", "high"}
    joint = summary["crosscoders"]["base-sft-rl"]
    assert joint["fve"].keys() == joint["specific_features"].keys() == {"base", "sft", "rl"}
    assert joint["delta_fve"].keys() == {"sft", "rl"}
    assert {"l0", "dead_fraction", "cross_entropy"} <= joint.keys()
    assert summary["localisation"]["features"] == list(range(10))
    for edit in ("ablate", "amplify"):
        found = summary["interventions"][edit]
        assert found.keys() >= EFFECT | {"tasks", "unseen"}
        assert found["matched_random"].keys() >= {"mean", "q05", "q95", "draws"}
        assert found["tasks"].keys() == {task for tasks in tree.tasks.values() for task in tasks}
        assert all(block.keys() >= EFFECT for block in found["tasks"].values())
        assert found["unseen"].keys() >= EFFECT
    assert {"tracking", "nulls", "wall_seconds", "seed", "versions", "study", "findings"} <= summary.keys()
    assert (summary["seed"], summary["study"]) == (3, "synthetic")


def test_the_teacher_s_numbers_are_there_if_there_is_one(tree: Tree) -> None:
    assert tree.write().summarise()["problems"]["teacher"] is None
    tree.taught = True
    summary = tree.write().summarise()
    assert summary["problems"]["teacher"]["acceptance"] == 0.75
    assert "teacher" in summary["wall_seconds"]
    (tree.paths.solutions / "card.json").unlink()
    with pytest.raises(StudyError, match="solutions/card"):
        tree.summarise()


def test_an_edits_top_level_is_the_transfer_group(tree: Tree) -> None:
    summary = tree.write().summarise()
    effects = json.loads((tree.paths.intervention("base-rl", "amplify") / "effects.json").read_text())
    assert summary["interventions"]["amplify"]["effect"] == effects["groups"]["transfer"]["effect"]
    assert summary["interventions"]["amplify"]["unseen"] == effects["groups"]["unseen"]


def test_wall_time_is_summed_over_a_stages_jobs(tree: Tree) -> None:
    summary = tree.write().summarise()
    assert summary["wall_seconds"]["dump"] == pytest.approx(8.0)  # base and one checkpoint of rl
    assert summary["wall_seconds"]["grpo"] == pytest.approx(20.0)
    assert summary["peak_memory_bytes"]["grpo"] == 700 << 20
    assert {job["artifact"] for job in summary["jobs"]} >= {"models/rl", "activations/rl@1/part-000.zarr"}


def test_what_an_earlier_setting_left_behind_is_not_counted(tree: Tree) -> None:
    tree.write()
    before = tree.summarise()
    tree._manifest(tree.paths.model("dpo"), "dpo", {})
    tree._manifest(tree.paths.crosscoder("old"), "fit", {})
    for model, part in (("base", 1), ("rl@9", 0), ("rl@1", 1), ("dpo", 0)):  # more parts, more checkpoints, another arm
        tree._manifest(tree.paths.activations(model, part), "dump", {"part": part})
    assert tree.summarise() == before


@pytest.mark.parametrize("missing", ["tracking", "localisation", "nulls"])
def test_optional_parts_may_be_absent(tree: Tree, missing: str) -> None:
    setattr(tree, missing, False)
    summary = tree.write().summarise()
    assert not summary[missing]
    if missing == "localisation":
        assert summary["interventions"] == {}


def test_a_missing_artifact_is_named(tree: Tree) -> None:
    tree.write()
    (tree.paths.evaluation("sft") / "items.parquet").unlink()
    with pytest.raises(StudyError, match="evaluation/sft"):
        tree.summarise()


def test_findings_follow_the_numbers(tree: Tree) -> None:
    tree.base_base_outside = 2
    holds = {finding["claim"]: finding["holds"] for finding in tree.write().summarise()["findings"]}
    assert holds["rl masters the tasks it was trained on"]
    assert holds["rl gains on transfer tasks"]
    assert holds["sft forgets: it loses on transfer tasks"]
    assert not holds["Base joined with itself shows no feature of one side"]


def test_a_noise_null_is_set_beside_the_arms(tree: Tree) -> None:
    summary = tree.write().summarise()
    shares = summary["nulls"]["base_noise"]["share_outside_of"]
    assert shares.keys() == {"base-sft", "base-rl"}
    assert shares["base-sft"] == summary["crosscoders"]["base-sft"]["nrn"]["share_outside"]
    assert summary["nulls"]["base_base"]["passed"] is True


def test_read_again_its_order_is_the_studys(tree: Tree) -> None:
    tree.write().summarise()
    summary = read_summary(tree.paths.summary)
    assert list(summary["arms"]) == ["sft", "rl"]
    assert list(summary["crosscoders"]) == ["base-sft", "base-rl", "base-sft-rl"]
    assert list(summary["interventions"]) == ["amplify", "transplant", "ablate"]


def test_numbers_that_json_lacks_become_null() -> None:
    value: dict[str, Any] = {"a": [float("nan"), 1.0, float("inf")], "b": {"c": (1, "x", None, True)}}
    assert plain(value) == {"a": [None, 1.0, None], "b": {"c": [1, "x", None, True]}}


def test_tasks_weigh_the_same_whatever_their_size() -> None:
    index = pd.MultiIndex.from_tuples([("a", i) for i in range(4)] + [("b", 0), ("b", 1)], names=["task", "item"])
    found = mean_over_tasks(pd.Series([1.0, 1, 1, 1, 0, 0], index=index), ["a", "b", "absent"])
    assert found is not None
    assert found["value"] == 0.5
    assert found["n"] == 6
    assert found["low"] == found["high"] == 0.5  # no variance within either task


def test_a_contrast_is_paired_by_item() -> None:
    """Two models that differ by the same amount on every item differ without uncertainty, however items vary."""
    rng = np.random.default_rng(0)
    rows = [{"task": "t", "item": str(i), "right": rng.random() < 0.5} for i in range(50)]
    base, arm = pd.DataFrame(rows), pd.DataFrame([{**row, "right": not row["right"]} for row in rows])
    same = contrasts({"base": base, "arm": base}, "base", {"transfer": ["t"]})["arm"]["transfer"]
    assert (same["value"], same["low"], same["high"], same["n"]) == (0.0, 0.0, 0.0, 50)
    shuffled = contrasts({"base": base, "arm": arm.sample(frac=1, random_state=1)}, "base", {"transfer": ["t"]})
    expected = float(arm["right"].mean()) - float(base["right"].mean())
    assert shuffled["arm"]["transfer"]["value"] == pytest.approx(expected)


def test_every_pair_of_models_is_tested(tree: Tree) -> None:
    found = tree.write().summarise()["paired"]
    assert [(pair["model"], pair["against"]) for pair in found] == [("sft", "base"), ("rl", "base"), ("rl", "sft")]
    for pair in found:
        assert pair["groups"].keys() == tree.tasks.keys()
        assert pair["tasks"].keys() == {task for tasks in tree.tasks.values() for task in tasks}
        pooled = pair["groups"]["transfer"]
        assert pooled["n"] == sum(pair["tasks"][task]["n"] for task in tree.tasks["transfer"])
        assert not pooled["exact"], "two samples an item"
    rl = found[1]["groups"]["transfer"]
    assert rl["difference"] > 0.2
    assert rl["p"] < 0.001
    assert rl["better"] > rl["worse"]


def test_pairs_are_matched_by_item_and_empty_groups_have_none() -> None:
    first = pd.DataFrame({"task": "t", "item": list("abcd"), "sample": 0, "right": [True, True, True, False]})
    second = pd.DataFrame({"task": "t", "item": list("edcba"), "sample": 0, "right": [True, True, False, False, False]})
    (found,) = paired_tests({"base": first, "arm": second}, {"transfer": ["t"], "unseen": []})
    assert found["tasks"]["t"] == {"difference": -0.5, "n": 4, "better": 1, "worse": 3, "p": 0.625, "exact": True}
    assert found["groups"] == {"transfer": found["tasks"]["t"], "unseen": None}


def test_imports_no_torch() -> None:
    code = "import sys, rlgen.report.summary, rlgen.report.page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_is_written_whole_or_not_at_all(tree: Tree) -> None:
    tree.write().summarise()
    before = tree.paths.summary.read_text()
    (tree.paths.attribution("base-rl") / "attribution.json").unlink()
    with pytest.raises(StudyError, match="base-rl"):
        tree.summarise()
    assert tree.paths.summary.read_text() == before
    assert not list(Path(tree.root).glob("*.tmp"))


def test_nothing_localised_holds_nothing(tree: Tree) -> None:
    """An edit of no features changes as much as random ones of no features do; that is no finding."""
    tree.write()
    path = tree.paths.localisation("base-rl") / "localisation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "features": [], "reason": "none passes"}))
    nothing = dict.fromkeys(("mean", "q05", "q95"), 0.0) | {"draws": 20, "values": [0.0] * 20, "p": 1.0, "z": None}
    for edit in ("ablate", "amplify", "transplant"):
        path = tree.paths.intervention("base-rl", edit) / "effects.json"
        effects = json.loads(path.read_text()) | {"features": []}
        for block in effects["groups"].values():
            block |= {"effect": 0.0, "low": 0.0, "high": 0.0, "matched_random": nothing, "random_direction": nothing}
        path.write_text(json.dumps(effects))
    verdicts = tree.summarise()["verdicts"]
    assert verdicts["compact_shared_set"]["verdict"] == "does not hold"
    for claim in ("amplification_helps", "transplantation_helps", "ablation_hurts", "transfers_to_unseen"):
        assert verdicts[claim]["verdict"] == "cannot tell"
        assert verdicts[claim]["because"] == "no feature was localised, so there was nothing to edit"
    assert "nothing to edit" in tree.report()


def test_an_edit_that_no_item_measures_is_named(tree: Tree) -> None:
    path = tree.write().paths.intervention("base-rl", "ablate") / "effects.json"
    effects = json.loads(path.read_text())
    effects["groups"]["transfer"] = None
    path.write_text(json.dumps(effects))
    summary = tree.summarise()
    assert summary["unmeasured"] == ["ablate"]
    assert summary["verdicts"]["ablation_hurts"]["verdict"] == "cannot tell"
    assert "Not measured, as no item of a transfer task is left to measure on: ablate." in tree.report()


def test_without_problems_there_are_none(tree: Tree) -> None:
    tree.problems, tree.methods = False, {"sft": "existing", "rl": "existing"}
    summary = tree.write().summarise()
    assert summary["problems"] is None
    assert summary["training"] == {}
    assert not [job for job in summary["jobs"] if job["stage"] in ("problems", "sft", "grpo", "teacher")]
    assert not {"sft_more_specific", "rl_changes_few", "sft_stabilises_early"} & summary["verdicts"].keys()


def test_steps_without_a_gradient_are_counted(tree: Tree) -> None:
    tree.gradients = {"sft": [0.0] * 3, "rl": [0.5, *[0.0] * 7]}
    found = tree.write().summarise()["training"]
    assert found["sft"]["gradient"] == {"steps": 40, "zero": 3, "first_zero": 3, "nothing_at_first": False}
    assert (found["rl"]["gradient"]["zero"], found["rl"]["gradient"]["first_zero"]) == (7, 0)
    tree.gradients = {"rl": [0.0] * 10}
    found = tree.write().summarise()["training"]
    assert found["sft"]["gradient"] is None, "older curves do not say"
    assert found["rl"]["gradient"]["nothing_at_first"]
    assert found["rl"]["gradient"]["reward"] == pytest.approx(5.5 / 450)


def test_precision_and_what_it_makes_of_batches_are_there_by_model(tree: Tree) -> None:
    summary = tree.write().summarise()
    assert (summary["precision"], summary["batch_dependence"]) == ({}, {}), "older evaluations do not say"
    measured = {"dtype": "bfloat16", "compared": 32, "different": 14, "right_changed": 2, "batch_size": {"max": 1}}
    tree.precision = {"precision": "bfloat16", "batch_dependence": measured}
    summary = tree.write().summarise()
    assert summary["precision"] == dict.fromkeys(("base", "sft", "rl"), "bfloat16")
    assert summary["batch_dependence"]["rl"] == measured


def test_a_fit_that_is_not_edited_has_no_effect(tree: Tree) -> None:
    tree.edits = ["ablate"]
    summary = tree.write().summarise()
    assert list(summary["interventions"]) == ["ablate"]
    assert summary["fits"][0]["edit"] is None
    assert summary["fits"][0]["moved"] is None
    assert summary["fits"][0]["localised"] == 10
    assert "amplification_helps" not in summary["verdicts"]


def test_a_null_without_live_features_does_not_pass(tree: Tree) -> None:
    tree.write()
    path = tree.paths.attribution("null-base-base") / "attribution.json"
    empty = {"alive": 0, "nrn": {"outside": 0, "share_outside": None, "quantiles": {}}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **empty}))
    assert tree.summarise()["nulls"]["base_base"]["passed"] is False


def test_curves_are_kept_and_long_ones_thinned(tree: Tree) -> None:
    found = tree.write().summarise()["training"]
    assert (found["sft"]["steps"], found["rl"]["steps"]) == (40, 450)
    assert "reward" not in found["sft"]["curves"]
    assert found["sft"]["curves"]["kl_to_base"]["steps"] == [5, 10, 15, 20, 25, 30, 35, 40]
    reward = found["rl"]["curves"]["reward"]
    assert len(reward["steps"]) == 200
    assert reward["values"] == pytest.approx([step / 450 for step in reward["steps"]])


def test_arms_of_other_problems_are_not_set_side_by_side(tree: Tree) -> None:
    tree.write()
    write_json(tree.paths.model("rl") / "problems.json", {"count": 640, "order": "another"})
    with pytest.raises(StudyError, match=r"`rl` was trained on 640 problems that are not those of `sft`"):
        tree.summarise()
