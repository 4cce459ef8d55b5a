"""What you change, and what reruns: exactly the stages that read it and what is downstream."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlgen.cluster.artifacts import artifacts
from rlgen.cluster.dag import read_dag
from rlgen.cluster.status import status
from rlgen.study import load_study
from rlgen.study.sections.common import files_of
from tests.study.test_bad_settings import put, put_all
from tests.workflow.study_run import ROOT, TINY, command, jobs, snakemake, tiny_settings

pytestmark = pytest.mark.slow

END = {"summary": 1, "report": 1}
ONE_CROSSCODER = {"fit": 1, "diagnose": 1, "attribute": 1}
CAUSAL = {"localise": 2, "intervene": 3, "compare": 1}
"""Of the localised crosscoder and of the null of noise, which is amplified alone."""
SECOND_RL = {**tiny_settings()["arms"][1], "name": "rl2"}
EVERYTHING = {
    "problems": 1, "task": 4, "corpus": 1, "pretrain": 1, "sft": 1, "grpo": 1, "perturb": 1, "evaluate": 4,
    "dump": 12, "fit": 5, "diagnose": 5, "attribute": 5, "track": 2, **CAUSAL, **END,
}  # fmt: skip
SFT_DOWNSTREAM = {"evaluate": 1, "dump": 4, "fit": 2, "diagnose": 2, "attribute": 2, "track": 1, **END}
RL_DOWNSTREAM = {
    "perturb": 1, "evaluate": 2, "dump": 6, "fit": 3, "diagnose": 3, "attribute": 3, "track": 1, **CAUSAL, **END,
}  # fmt: skip
STORES_DOWNSTREAM = {"dump": 12, "fit": 5, "diagnose": 5, "attribute": 5, "track": 2, **CAUSAL, **END}

SOLUTIONS_DOWNSTREAM = {
    "sft": 1, "grpo": 1, "perturb": 1, "corpus": 1, "evaluate": 3, **STORES_DOWNSTREAM,
}  # fmt: skip

RERUNS: dict[str, tuple[str, Any, dict[str, int]]] = {
    "report title": ("report.title", "Another", {"report": 1}),
    "SFT learning rate": ("arms.0.lr", 5e-4, {"sft": 1, **SFT_DOWNSTREAM}),
    "RL learning rate": ("arms.1.lr", 5e-4, {"grpo": 1, **RL_DOWNSTREAM}),
    "number of RL checkpoints": ("arms.1.checkpoints", 2, {"grpo": 1, **RL_DOWNSTREAM, "dump": 5}),
    "another arm": ("arms", [*tiny_settings()["arms"], SECOND_RL], {"grpo": 1, "evaluate": 1, **END}),
    "pairwise crosscoder's k": ("crosscoders.base-sft.k", 4, {**ONE_CROSSCODER, "track": 1, **END}),
    "joint crosscoder's k": ("crosscoders.base-sft-rl.k", 4, {**ONE_CROSSCODER, **END}),
    "localised crosscoder's k, which the nulls share": (
        "crosscoders.base-rl.k",
        4,
        {"fit": 3, "diagnose": 3, "attribute": 3, "track": 1, **CAUSAL, **END},
    ),
    "another crosscoder": ("crosscoders.sft-rl", {"models": ["sft", "rl"], "k": 8}, {**ONE_CROSSCODER, **END}),
    "another seed of a crosscoder": ("crosscoders.base-sft.seeds", [1], {**ONE_CROSSCODER, "attribute": 2, **END}),
    "a grid of a crosscoder": (
        "crosscoders.base-sft.grid",
        {"k": [2, 4]},
        {"fit": 2, "diagnose": 2, "attribute": 2, **END},
    ),
    "corpus tokens": ("corpus.tokens", 8192, {"corpus": 1, **STORES_DOWNSTREAM}),
    "layers": ("activations.layers", [2], STORES_DOWNSTREAM),
    "codec": ("activations.codec", "lz4", STORES_DOWNSTREAM),
    "outliers": ("activations.outlier_norm", 20, {k: n for k, n in STORES_DOWNSTREAM.items() if k != "dump"}),
    "a transfer task's items": ("tasks.transfer.0.items", 50, {"task": 1, "evaluate": 4, **CAUSAL, **END}),
    "an unseen task's items": ("tasks.unseen.0.items", 50, {"task": 1, "evaluate": 3, **CAUSAL, **END}),
    "an unseen task's verifier": ("tasks.unseen.0.verifier", "math", {"task": 1, "evaluate": 3, **CAUSAL, **END}),
    "evaluation samples": ("evaluation.samples", 1, {"task": 4, "evaluate": 4, **CAUSAL, **END}),
    "tracked tokens": ("tracking.tokens", 4096, {"dump": 4, "track": 2, **END}),
    "tracked top": ("tracking.top", 5, {"track": 2, **END}),
    "specificity": ("attribution.specific", 0.6, {"attribute": 5, **END}),
    "localisation threshold": ("localisation.threshold", 0.3, {**CAUSAL, **END}),
    "amplification's alpha": ("interventions.amplify.alpha", 1.0, {"intervene": 2, "compare": 1, **END}),
    "a transplant, which the null is given in the place of amplification": (
        "interventions.transplant",
        {"tokens": "last_prompt"},
        {"intervene": 2, "compare": 1, **END},
    ),
    "another seed of the localised crosscoder": (
        "crosscoders.base-rl.seeds",
        [1],
        {**ONE_CROSSCODER, "attribute": 2, "localise": 1, "intervene": 1, **END},
    ),
    "ablation's tokens": ("interventions.ablate.tokens", "last_prompt", {"intervene": 1, **END}),
    "number of matched draws": ("interventions.draws", 25, {"intervene": 3, **END}),
    "a teacher": ("teacher", {"path": "owner/model"}, {**SOLUTIONS_DOWNSTREAM, "adopt": 1, "teacher": 1}),
    "no nulls": ("nulls", None, END),
    "seed": ("seed", 1, EVERYTHING),
    "GPUs of the fits": ("resources", {"fit": {"gpus": 2}}, {}),
    "a resource": ("resources", {"default": {"mem_mb": 3000}, "fit": {"threads": 2}}, {}),
    "a value given that is the default": ("localisation.threshold", 0.2, {}),
}


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    settings = tiny_settings()
    settings.setdefault("attribution", {})
    settings["interventions"].setdefault("ablate", {})
    change(settings)
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.mark.parametrize("what", RERUNS)
def test_just_what_reads_the_setting_reruns(what: str, finished: Path, tmp_path: Path) -> None:
    key, value, expected = RERUNS[what]
    assert jobs(finished, changed(tmp_path, put(key, value))) == expected


def test_a_changed_file_of_the_users_reruns_what_reads_it(tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "once upon a time"}\n')
    study = changed(tmp_path, put("corpus.sources", [{"source": "jsonl", "path": str(text)}]))
    snakemake(tmp_path, study, "--until", "corpus")
    assert jobs(tmp_path, study, "--until", "corpus") == {}
    text.write_text('{"text": "there was"}\n')
    assert jobs(tmp_path, study, "--until", "corpus") == {"corpus": 1}


def test_a_user_s_reward_mode_and_verifiers_are_inputs_of_what_calls_them(tmp_path: Path) -> None:
    settings = tiny_settings()
    settings["arms"][1]["reward"] = "own.rewards:short"
    settings["interventions"]["mode"] = "own.modes:brief"
    settings["verifier"] = "own.verifiers:judge"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "rewards.py").write_text(
        "def short(completions, **_):\n    return [0.0 for _ in completions]\n"
    )
    (tmp_path / "own" / "modes.py").write_text("def brief(prompt, response):\n    return len(response) < 4\n")
    (tmp_path / "own" / "verifiers.py").write_text("def judge(response, gold):\n    return response == gold\n")
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(settings))
    said = snakemake(tmp_path, study, "--dry-run")
    assert "own/rewards.py" in said
    assert "own/modes.py" in said
    blocks = {block.split()[0].rstrip(":") for block in said.split("rule ")[1:] if "own/verifiers.py" in block}
    assert blocks == {"problems", "evaluate", "intervene", "compare"}, "the reward of the user's own reads none"


def test_rlgen_s_own_functions_are_no_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where their files lie
    assert files_of("rlgen.posttrain.rewards:final_answer") == []
    assert files_of("tests.workflow.study_run:jobs") == ["tests/workflow/study_run.py"]
    assert files_of("numpy.linalg:norm") == files_of(None) == []


def test_nothing_to_do_after_a_finished_run(finished: Path) -> None:
    assert "Nothing to be done" in snakemake(finished, TINY, "--dry-run")


def test_status_tells_a_finished_run_from_its_manifests(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    assert {(found.state, found.unknown) for found in status(load_study(TINY))} == {("done", False)}


def test_a_study_is_few_files(finished: Path) -> None:
    """Beside stores, whose shards are files, arms with their checkpoints, and figures, no artifact has over a dozen."""
    for artifact in artifacts(load_study(TINY))[:-1]:  # the report is the last
        files = [path for path in (finished / artifact.path).rglob("*") if path.is_file()]
        units = {"dump": 4, "sft": 3, "grpo": 3}.get(artifact.rule, 1)  # shards, checkpoints
        assert len(files) <= 12 + 7 * (units - 1), artifact.path


def test_order_of_keys_reruns_nothing(finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "reordered.yaml"
    settings = json.loads(json.dumps(tiny_settings(), sort_keys=True))
    file.write_text(yaml.safe_dump(settings))
    assert jobs(finished, file) == {}


def test_other_parallelism_reruns_nothing(finished: Path) -> None:
    assert jobs(finished, TINY, "--cores", "1") == {}


def test_changing_rl_reruns_neither_sft_nor_the_base(finished: Path, tmp_path: Path) -> None:
    said = snakemake(finished, changed(tmp_path, put("arms.1.lr", 5e-4)), "--dry-run")
    outputs = [line.split()[-1] for line in said.splitlines() if line.strip().startswith("output:")]
    assert not any(name in path.split("/") for path in outputs for name in ("sft", "base", "sft@1", "sft@2"))


def test_stores_that_are_not_kept_are_temporary_and_missed_only_when_something_reads_them_again(
    finished: Path, tmp_path: Path
) -> None:
    study = changed(tmp_path, put("activations.keep", False))
    assert jobs(finished, study) == {}
    found = read_dag([*command(tmp_path, study)[3:], "--until", "fit"])
    assert {job.rule for job in found.jobs if job.temporary} == {"dump"}
    without = tmp_path / "without"
    shutil.copytree(finished, without)
    shutil.rmtree(without / "results/tiny/activations")
    assert jobs(without, study) == {}
    other = changed(tmp_path, put_all({"activations.keep": False, "crosscoders.base-sft.k": 4}))
    again = jobs(without, other)
    assert again["dump"] == 12, "all fits share base's store, and are made again when it is"
    assert again["fit"] == 5
