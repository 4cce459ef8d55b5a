"""Every kind of bad setting is refused before any job starts, by its key's path, with a remedy and no traceback."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlgen.errors import StudyError
from rlgen.study import load_study, parse_study
from tests.study.settings import GOOD, ROOT, assert_refused, put, put_all

JSONL_TASK = {"name": "arc", "source": "jsonl", "path": "no/such.jsonl", "format": "multiple_choice"}
EXISTING_ARM = {"name": "theirs", "method": "existing", "path": "./no/such/model"}

BAD = {
    "unknown key at the top": (put("sed", 1), "sed", "did you mean `seed`"),
    "unknown key in a section": (put("evaluation.sample", 1), "evaluation.sample", "did you mean `samples`"),
    "unknown key in an arm": (put("arms.1.generation", 8), "arms[1].generation", "did you mean `generations`"),
    "unknown key in a crosscoder": (put("crosscoders.base-rl.topk", 8), "crosscoders.base-rl.topk", "use one of"),
    "missing section": (lambda s: s.pop("corpus"), "corpus", "add `corpus`"),
    "missing key": (lambda s: s["corpus"].pop("tokens"), "corpus.tokens", "add `tokens`"),
    "wrong type": (put("arms.0.lr", "fast"), "arms[0].lr", "valid number"),
    "text for a list": (put("activations.layers", "3"), "activations.layers", "valid list"),
    "negative": (put("crosscoders.base-sft.lr", -0.1), "crosscoders.base-sft.lr", "greater than 0"),
    "alpha beside norm": (
        put("interventions.amplify.alpha", 1.0),
        "interventions.amplify",
        "give alpha or norm, not both",
    ),
    "negative norm": (put("interventions.amplify.norm", -0.7), "interventions.amplify.norm", "greater than 0"),
    "norm of an ablation": (put("interventions.ablate.norm", 0.7), "interventions.ablate.norm", "use one of"),
    "unknown score": (put("localisation.score", "gradient"), "localisation.score", "'code_difference'"),
    "share over one": (put("localisation.threshold", 1.5), "localisation.threshold", "less than or equal to 1"),
    "unknown method": (put("arms.1.method", "ppo"), "arms[1].method", "'grpo'"),
    "no method": (lambda s: s["arms"][0].pop("method"), "arms[0].method", "add `method`"),
    "unknown choice": (put("crosscoders.base-rl.sparsity", "relu"), "crosscoders.base-rl.sparsity", "'batch_topk'"),
    "bad name": (put("study", "my study"), "study", "pattern"),
    "layer out of range": (put("activations.layers", [3, 9]), "activations.layers[1]", "from 1 to 4"),
    "layer not dumped": (put("crosscoders.base-rl.layer", 2), "crosscoders.base-rl.layer", "activations.layers"),
    "unknown model": (
        put("crosscoders.base-rl.models", ["base", "dpo"]),
        "crosscoders.base-rl.models[1]",
        "base, sft, rl",
    ),
    "model twice": (put("crosscoders.base-rl.models", ["rl", "rl"]), "crosscoders.base-rl.models", "list each once"),
    "one model": (put("crosscoders.base-rl.models", ["rl"]), "crosscoders.base-rl.models", "at least 2 items"),
    "duplicate arm": (put("arms.1.name", "sft"), "arms", "name of its own"),
    "arm named base": (put("arms.0.name", "base"), "arms", "rename"),
    "task in two groups": (put("tasks.unseen.0.name", "max"), "tasks.unseen", "one group"),
    "unknown world task": (
        put("tasks.unseen.0", {"name": "x", "source": "miniature", "task": "x"}),
        "tasks.unseen[0].task",
        "'mod'",
    ),
    "no transfer task": (put("tasks.transfer", []), "tasks.transfer", "at least 1 item"),
    "no such benchmark": (
        put("tasks.unseen.0", {"name": "arc-challenge", "source": "benchmark"}),
        "tasks.unseen[0].name",
        "did you mean `arc_challenge`",
    ),
    "no such benchmark by key": (
        put("tasks.unseen.0", {"name": "x", "source": "benchmark", "benchmark": "aime2024"}),
        "tasks.unseen[0].benchmark",
        "did you mean `aime24`",
    ),
    "missing file of a benchmark": (
        put("tasks.unseen.0", {"name": "sciq", "source": "benchmark", "path": "no/such.jsonl"}),
        "tasks.unseen[0].path",
        "JSONL file",
    ),
    "no samples": (put("tasks.unseen.0.samples", 0), "tasks.unseen[0].samples", "greater than 0"),
    "unknown engine": (put("evaluation.engine", "sglang"), "evaluation.engine", "'vllm'"),
    "missing file": (put("tasks.unseen.0", JSONL_TASK), "tasks.unseen[0].path", "JSONL file"),
    "missing model": (lambda s: s["arms"].append(EXISTING_ARM), "arms[2].path", "config.json"),
    "k over features": (put("crosscoders.base-rl.k", 4096), "crosscoders.base-rl.k", "smaller k"),
    "features for a stranger": (
        put("crosscoders.base-rl.dedicated", {"sft": 8}),
        "crosscoders.base-rl.dedicated.sft",
        "add it to models",
    ),
    "all features dedicated": (
        put("crosscoders.base-rl.dedicated", {"rl": 1024}),
        "crosscoders.base-rl.dedicated",
        "dedicate fewer",
    ),
    "uneven shares": (
        put("crosscoders.base-rl.feature_shards", 3),
        "crosscoders.base-rl.feature_shards",
        "a divisor of features",
    ),
    "grid of wrong type": (put("crosscoders.base-rl.grid", {"k": 8}), "crosscoders.base-rl.grid.k", "valid list"),
    "grid of an unknown key": (put("crosscoders.base-rl.grid", {"K": [8]}), "crosscoders.base-rl.grid.K", "l0_weight"),
    "grid over features": (
        put("crosscoders.base-rl.grid", {"k": [8, 4096]}),
        "crosscoders.base-rl.grid",
        "of `base-rl.k=4096`, k 4096 exceeds features",
    ),
    "feature shards that GPUs cannot take": (
        lambda s: (put("crosscoders.base-rl.feature_shards", 4)(s), put("resources", {"fit": {"gpus": 2}})(s)),
        "crosscoders.base-rl.feature_shards",
        "2 GPUs",
    ),
    "feature shards that nodes cannot take": (
        lambda s: (
            put("crosscoders.base-rl.feature_shards", 4)(s),
            put("resources", {"fit": {"launcher": "submitit", "nodes": 3}})(s),
        ),
        "crosscoders.base-rl.feature_shards",
        "divide the other",
    ),
    "negative price": (put("crosscoders.base-rl.l0_weight", -1), "crosscoders.base-rl.l0_weight", "greater than or"),
    "generations do not divide": (put("arms.1.generations", 7), "arms[1].generations", "divisor"),
    "a batch that the GPUs cannot share": (
        put_all({"resources": {"sft": {"gpus": 3}}, "arms.0.micro_batch_size": None}),
        "arms[0].batch_size",
        "use a multiple",
    ),
    "a micro batch that the GPUs cannot share": (
        put("resources", {"sft": {"gpus": 3}}),
        "arms[0].micro_batch_size",
        "divisor",
    ),
    "effects measured on other tasks than the selecting ones": (
        put("interventions.groups", ["unseen"]),
        "interventions.groups",
        "add it",
    ),
    "problems that SFT could not take": (
        put_all({"problems.max_prompt_tokens": 32, "problems.max_solution_tokens": 32}),
        "arms[0].max_length",
        "set it to 65",
    ),
    "offload without ZeRO": (put("arms.0.offload", "optimizer"), "arms[0].offload", "zero 2 or more"),
    "weights offloaded without ZeRO 3": (
        put_all({"arms.0.offload": "all", "arms.0.zero": 2}),
        "arms[0].offload",
        "zero 3",
    ),
    "a ZeRO stage that there is not": (put("arms.0.zero", 5), "arms[0].zero", "given 5"),
    "a vLLM server that is not used": (
        put("arms.1.rollouts", {"engine": "transformers", "server": "http://a:1"}),
        "arms[1].rollouts.server",
        "vllm",
    ),
    "an unknown monitor": (put("monitors", ["mlflow"]), "monitors[0]", "tensorboard"),
    "micro batch does not divide": (put("arms.0.micro_batch_size", 100), "arms[0].micro_batch_size", "divisor"),
    "more checkpoints than steps, SFT": (put("arms.0.checkpoints", 41), "arms[0].checkpoints", "at most 40"),
    "more checkpoints than steps, GRPO": (put("arms.1.checkpoints", 41), "arms[1].checkpoints", "at most 40"),
    "bad reward": (put("arms.1.reward", "my_reward"), "arms[1].reward", "package.module:function"),
}


@pytest.mark.parametrize("kind", BAD)
def test_is_refused_with_key_and_remedy(kind: str) -> None:
    assert_refused(*BAD[kind])


def test_all_wrong_keys_are_told_at_once() -> None:
    settings = copy.deepcopy(GOOD)
    put("arms.0.lr", -1)(settings)
    put("corpus.tokens", "many")(settings)
    with pytest.raises(StudyError, match="2 settings are wrong"):
        parse_study(settings)


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "rlgen", "config", "check", "{file}"],
        [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(ROOT / "workflow/Snakefile"),
            "-n",
            "--configfile",
            "{file}",
        ],
    ],
    ids=["rlgen config check", "snakemake -n"],
)
def test_command_line_shows_no_traceback(tmp_path: Path, command: list[str]) -> None:
    settings = copy.deepcopy(GOOD)
    put("crosscoders.base-rl.models", ["base", "dpo"])(settings)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        [part.format(file=file) for part in command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "crosscoders.base-rl.models[1]: no model `dpo`" in said
    assert "Traceback" not in said


def test_missing_and_malformed_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file"):
        load_study(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("arms: [")
    with pytest.raises(StudyError, match="not valid YAML"):
        load_study(bad)
    bad.write_text("- a list")
    with pytest.raises(StudyError, match="a study is a mapping"):
        load_study(bad)
