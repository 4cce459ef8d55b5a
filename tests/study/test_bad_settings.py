"""Every kind of bad setting is refused before any job starts, by its key's path, with a remedy and no traceback."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlgen.errors import StudyError
from rlgen.study import parse_study
from rlgen.study.checks.running import RULES

ROOT = Path(__file__).parents[2]
GOOD = yaml.safe_load((ROOT / "config.yaml").read_text())

Change = Callable[[dict[str, Any]], Any]


def put(path: str, value: Any) -> Change:
    """Set the value at a dotted path; numbers are list indices."""

    def change(settings: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = settings
        for step in parents:
            target = target[int(step) if step.isdigit() else step]
        target[int(last) if last.isdigit() else last] = value

    return change


def put_all(values: dict[str, Any]) -> Change:
    """Set the values at several dotted paths."""

    def change(settings: dict[str, Any]) -> None:
        for path, value in values.items():
            put(path, value)(settings)

    return change


JSONL_TASK = {"name": "arc", "source": "jsonl", "path": "no/such.jsonl", "format": "multiple_choice"}
ROWS = {"source": "jsonl", "path": "no/such.jsonl"}
EXISTING_ARM = {"name": "theirs", "method": "existing", "path": "./no/such/model"}

OTHER_LAYER = "base-rl.layer=2"
OTHER_LAYERS = {
    "activations.layers": [3, 2],
    "crosscoders.base-rl.grid": {"layer": [2]},
    "crosscoders.base-rl.seeds": [1],
    "localisation.compare": [OTHER_LAYER, f"{OTHER_LAYER}.seed=1"],
}

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
    "delta loss without base": (
        put("crosscoders.base-sft.models", ["sft", "rl"]),
        "crosscoders.base-sft.delta_weight",
        "add base",
    ),
    "tracked crosscoder unknown": (put("tracking.crosscoders", ["base-dpo"]), "tracking.crosscoders[0]", "base-sft-rl"),
    "tracked crosscoder joint": (put("tracking.crosscoders", ["base-sft-rl"]), "tracking.crosscoders[0]", "pairwise"),
    "tracking over the corpus": (put("tracking.tokens", 10**9), "tracking.tokens", "at most the corpus"),
    "localised crosscoder unknown": (put("localisation.crosscoder", "x"), "localisation.crosscoder", "use one of"),
    "localised arm not joined": (put("localisation.arm", "sft"), "localisation.crosscoder", "name one that does"),
    "a compared crosscoder that is not there": (
        put("localisation.compare", ["base-rl.k=9"]),
        "localisation.compare[0]",
        "use one of: base-sft, base-rl",
    ),
    "a compared crosscoder without the arm": (
        put("localisation.compare", ["base-sft"]),
        "localisation.compare[0]",
        "name one that does",
    ),
    "a second layer that is not localised": (
        put("interventions.with_layers", ["base-sft-rl"]),
        "interventions.with_layers[0]",
        "name it in localisation.compare",
    ),
    "a second layer that is the first": (
        put_all({"localisation.compare": ["base-sft-rl"], "interventions.with_layers": ["base-sft-rl"]}),
        "interventions.with_layers[0]",
        "one crosscoder a layer",
    ),
    "a third layer that is the second": (
        put_all({**OTHER_LAYERS, "interventions.with_layers": [OTHER_LAYER, f"{OTHER_LAYER}.seed=1"]}),
        "interventions.with_layers[1]",
        "one crosscoder a layer",
    ),
    "a sweep below nothing": (
        put("interventions.ablate.sweep", [-1]),
        "interventions.ablate.sweep[0]",
        "or equal to 0",
    ),
    "a mode that is no function's name": (put("interventions.mode", "thinks"), "interventions.mode", "module:function"),
    "nothing to select on": (put("localisation.selection", 0.001), "localisation.selection", "another share"),
    "nothing left to measure on": (put("localisation.selection", 0.999), "localisation.selection", "another share"),
    "one item to select and measure on": (put("tasks.transfer.0.items", 1), "localisation.selection", "more items"),
    "NRN range upside down": (put("attribution.nrn_range", [0.6, 0.4]), "attribution.nrn_range", "lower end first"),
    "empty NRN range": (put("attribution.nrn_range", [0.5, 0.5]), "attribution.nrn_range", "lower end first"),
    "nodes that Snakemake's executor does not ask for": (
        put("resources", {"grpo": {"nodes": 2}}),
        "resources.grpo.nodes",
        "launcher: submitit",
    ),
    "a launcher of a rule that processes cannot share": (
        put("resources", {"evaluate": {"launcher": "submitit"}}),
        "resources.evaluate.launcher",
        "sft, grpo, fit",
    ),
    "resources of no rule": (
        put("resources.pretrian", {"threads": 2}),
        "resources.pretrian",
        "did you mean `pretrain`",
    ),
    "rows longer than the base reads": (put("corpus.row_length", 512), "corpus.row_length", "at most 256"),
    "null like nothing": (put("nulls.like", "x"), "nulls.like", "use one of"),
    "shard not a multiple": (put("activations.shard_tokens", 5000), "activations.shard_tokens", "multiple"),
    "more parts than shards": (put("activations.parts", 9), "activations.parts", "use fewer, or smaller"),
    "chunks computed by the shard": (
        put("activations.mode", "streamed"),
        "activations.chunk_tokens",
        "set it to activations.shard_tokens",
    ),
    "an unknown codec": (put("activations.codec", "gzip"), "activations.codec", "'none', 'lz4' or 'zstd'"),
    "text of a folder that is not there": (
        put("corpus.sources.0", {"source": "hub", "path": "./no/such"}),
        "corpus.sources[0].path",
        "or a hub id",
    ),
    "world without its base": (
        put("base", {"method": "existing", "path": "owner/model"}),
        "problems.sources[0].source",
        "source `jsonl`",
    ),
    "no problems": (put("problems.sources", []), "problems.sources", "at least 1 item"),
    "an arm to train and no problems": (lambda s: s.pop("problems"), "problems", "take a finished arm"),
    "a corpus of problems that are not there": (
        lambda s: s.pop("problems"),
        "corpus.sources[1].source",
        "take another source",
    ),
    "a teacher of no problems": (
        put_all({"problems": None, "teacher": {"path": "owner/model"}}),
        "problems.sources",
        "take a finished arm",
    ),
    "an oracle without an edit in base": (
        put_all({"interventions.amplify": None, "interventions.transplant": None}),
        "localisation.oracle",
        "leave the oracle out",
    ),
    "unknown source of problems": (put("problems.sources.0.source", "web"), "problems.sources[0].source", "'hub'"),
    "problems of a file that is not there": (put("problems.sources.0", ROWS), "problems.sources[0].path", "JSONL file"),
    "problems of a folder that is not there": (
        put("problems.sources.0", {"source": "hub", "path": "./no/such"}),
        "problems.sources[0].path",
        "or a hub id",
    ),
    "levels of no field": (
        put("problems.sources.0", {**ROWS, "levels": [3, 5]}),
        "problems.sources[0].levels",
        "name the field by `level`",
    ),
    "levels upside down": (
        put("problems.sources.0", {**ROWS, "level": "level", "levels": [5, 3]}),
        "problems.sources[0].levels",
        "lowest first",
    ),
    "one level for a range": (
        put("problems.sources.0", {**ROWS, "level": "level", "levels": [3]}),
        "problems.sources[0].levels[1]",
        "add",
    ),
    "no solutions for SFT": (
        put("problems.sources.0", {**ROWS, "solution": None}),
        "problems.sources[0].solution",
        "name the field",
    ),
    "an oracle of an edit elsewhere": (
        put_all({"localisation.oracle": True, "interventions.transplant": {"tokens": "all"}}),
        "localisation.oracle",
        "last_prompt",
    ),
    "a teacher that is not there": (put("teacher", {"path": "./no/such"}), "teacher.path", "config.json"),
    "unknown key of a teacher": (put("teacher", {"path": "o/m", "tris": 1}), "teacher.tris", "did you mean `tries`"),
    "unknown engine of a teacher": (put("teacher", {"path": "o/m", "engine": "hf"}), "teacher.engine", "'vllm'"),
    "no share of a teacher's tokens": (put("teacher", {"path": "o/m", "top_p": 0}), "teacher.top_p", "greater than 0"),
    "a teacher that is not asked the problem": (
        put("teacher", {"path": "o/m", "prompt": "Think."}),
        "teacher.prompt",
        "{problem}",
    ),
    "a teacher that repeats itself": (
        put("teacher", {"path": "o/m", "temperature": 0}),
        "teacher.tries",
        "give a temperature",
    ),
    "an arm named as the teacher": (
        lambda s: (put("teacher", {"path": "o/m"})(s), put("arms.0.name", "teacher")(s)),
        "arms",
        "rename",
    ),
    "prompt over another field": (put("problems.prompt", "{question}"), "problems.prompt", "{problem}"),
    "prompt without the problem": (put("problems.prompt", "Think."), "problems.prompt", "{problem}"),
    "prompt with an open brace": (put("problems.prompt", "{problem"), "problems.prompt", "double all other braces"),
    "prompt of a part of the problem": (put("problems.prompt", "{problem.b}"), "problems.prompt", "{problem}"),
    "compared with no task": (put("problems.decontaminate", ["mod", "arc"]), "problems.decontaminate", "mod, max"),
    "no tokens": (put("problems.max_prompt_tokens", 0), "problems.max_prompt_tokens", "greater than 0"),
    "unverifiable choice": (put("problems.unverifiable", "ignore"), "problems.unverifiable", "'refuse'"),
}


SIZES = {
    "a teacher of problems with solutions": put("teacher", {"path": "owner/model"}),
    "a greedy teacher": put("teacher", {"path": "owner/model", "temperature": 0, "tries": 1}),
    "batch size of 16": put("arms.0.batch_size", 16),
    "as many checkpoints as steps": put("arms.0.checkpoints", 40),
    "one selecting item of 400": put("localisation.selection", 0.002),
    "one item of an unseen task": put("tasks.unseen.0.items", 1),
    "fits of a grid and of seeds, compared and edited together": put_all(
        {**OTHER_LAYERS, "interventions.with_layers": [OTHER_LAYER]}
    ),
    "no edit in the arm": put("interventions.ablate", None),
    "no edit at all": put_all(
        {
            **dict.fromkeys(("interventions.amplify", "interventions.transplant", "interventions.ablate"), None),
            "localisation.oracle": False,
        }
    ),
    "resources of every rule": put("resources", {rule: {"threads": 2} for rule in ("default", *RULES)}),
}


@pytest.mark.parametrize("kind", SIZES)
def test_what_can_work_is_not_refused(kind: str) -> None:
    settings = copy.deepcopy(GOOD)
    settings["arms"][0].pop("micro_batch_size", None)
    SIZES[kind](settings)
    parse_study(settings)


@pytest.mark.parametrize("kind", BAD)
def test_is_refused_with_key_and_remedy(kind: str) -> None:
    change, key, remedy = BAD[kind]
    settings = copy.deepcopy(GOOD)
    change(settings)
    with pytest.raises(StudyError) as caught:
        parse_study(settings)
    found = str(caught.value)
    assert f"  {key}: " in found
    assert remedy in found.partition(f"  {key}: ")[2]
    assert "remedy:" in found


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
    from rlgen.study import load_study

    with pytest.raises(StudyError, match="no such file"):
        load_study(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("arms: [")
    with pytest.raises(StudyError, match="not valid YAML"):
        load_study(bad)
    bad.write_text("- a list")
    with pytest.raises(StudyError, match="a study is a mapping"):
        load_study(bad)
