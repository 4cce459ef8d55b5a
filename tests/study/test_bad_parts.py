"""Parts of a study that do not fit together are refused; what can work is not."""

import copy

import pytest

from rlgen.study import parse_study
from rlgen.study.checks.running import RULES
from tests.study.settings import GOOD, assert_refused, put, put_all

ROWS = {"source": "jsonl", "path": "no/such.jsonl"}

OTHER_LAYER = "base-rl.layer=2"
OTHER_LAYERS = {
    "activations.layers": [3, 2],
    "crosscoders.base-rl.grid": {"layer": [2]},
    "crosscoders.base-rl.seeds": [1],
    "localisation.compare": [OTHER_LAYER, f"{OTHER_LAYER}.seed=1"],
}

BAD = {
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
    assert_refused(*BAD[kind])
