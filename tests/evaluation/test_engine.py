"""vLLM as the engine: refused where it is not installed; with a stand-in, what it is given."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import Qwen3Config

from rlgen.data.tasks import read_items
from rlgen.errors import StudyError
from rlgen.evaluation.engine import VllmEngine
from rlgen.evaluation.evaluate import evaluate
from rlgen.models import REFERENCE, load_tokenizer
from rlgen.study.stages import EvaluateSettings
from tests.evaluation.conftest import EVALUATION

MODULE = "lm_eval.models.vllm_causallms"
SETTINGS = EvaluateSettings(evaluation=EVALUATION.model_copy(update={"engine": "vllm"}))


class Stand:
    """In the place of the harness's class: remembers what it is given, and answers without a model."""

    made: list["Stand"] = []
    max_length = 4096

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.made.append(self)

    def generate_until(self, requests: list[Any], disable_tqdm: bool) -> list[str]:
        self.asked += [request.args for request in requests]
        return [f"={request.args[1]['seed'] % 10}" for request in requests]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool) -> list[tuple[float, bool]]:
        return [(-float(len(request.args[1])), False) for request in requests]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> list[Stand]:
    module = ModuleType(MODULE)
    module.VLLM = Stand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)
    monkeypatch.setattr(Stand, "made", [])
    return Stand.made


def test_without_vllm_the_remedy_is_named(tiny: Path, tasks: dict[str, Path], tmp_path: Path) -> None:
    if find_spec("vllm"):
        pytest.skip("vllm is installed")
    with pytest.raises(StudyError, match=r"evaluation\.engine: vllm cannot be imported .*`pip install vllm`"):
        evaluate(SETTINGS, model=tiny, tasks=[tasks["max"]], out=tmp_path / "out")


def test_an_evaluation_by_vllm(stand: list[Stand], tiny: Path, tasks: dict[str, Path], tmp_path: Path) -> None:
    evaluate(SETTINGS, model=tiny, tasks=[tasks["max"], tasks["pick"]], out=tmp_path / "out")
    (made,) = stand
    assert made.settings["pretrained"] == str(tiny)
    assert made.settings["trust_remote_code"] is False
    assert made.settings["load_format"] == "safetensors"
    frame = pd.read_parquet(tmp_path / "out" / "items.parquet")
    assert frame.groupby("task").size().to_dict() == {"max": 60, "pick": 40}
    shortest = frame[frame["task"] == "pick"].iloc[0]
    assert shortest["answer"] == "a"
    for prompt, settings in made.asked:
        assert settings["until"] == []
        assert (settings["max_gen_toks"], settings["temperature"], settings["do_sample"]) == (12, 1.0, True)
        assert prompt in set(frame["prompt"])
    assert len({(prompt, settings["seed"]) for prompt, settings in made.asked}) == 60, "a seed of its own a sample"
    evaluate(SETTINGS, model=tiny, tasks=[tasks["max"]], out=tmp_path / "again")
    assert made.asked == stand[1].asked, "the same seed gives the same seeds"


def test_vllm_is_started_for_the_longest_sequence_of_the_tasks(
    stand: list[Stand], tiny: Path, tasks: dict[str, Path], tmp_path: Path
) -> None:
    """Not for all that the model can take: vLLM keeps room for that, and refuses to start where there is none."""
    tokenizer = load_tokenizer(tiny)

    def started(*names: str) -> int:
        evaluate(SETTINGS, model=tiny, tasks=[tasks[name] for name in names], out=tmp_path / "-".join(names))
        return int(stand[-1].settings["max_model_len"])

    asked = {name: max(len(tokenizer(row["prompt"])["input_ids"]) for row in read_items(tasks[name])) for name in tasks}
    assert started("max") == asked["max"] + 12 < 128
    longest = tokenizer(max((f"{r['prompt']} {c}" for r in read_items(tasks["pick"]) for c in r["choices"]), key=len))
    assert started("pick") == len(longest["input_ids"]) + 1
    assert started("max", "pick") == max(asked["max"] + 12, len(longest["input_ids"]) + 1)


def test_never_beyond_the_models_own_limit(stand: list[Stand], tiny: Path) -> None:
    VllmEngine(tiny, longest=100_000)
    assert stand[0].settings["max_model_len"] == 128


def test_a_model_on_the_hub_is_loaded_as_it_was_pinned(
    stand: list[Stand], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = {"path": "owner/model", "revision": "c0ffee", "trust_remote_code": True, "allow_pickle": True}
    (tmp_path / REFERENCE).write_text(json.dumps(reference))
    monkeypatch.setattr("rlgen.serving.load_config", lambda _: Qwen3Config(max_position_embeddings=262_144))
    VllmEngine(tmp_path, longest=3000)
    assert stand[0].settings == {
        **{"pretrained": "owner/model", "revision": "c0ffee", "tokenizer_revision": "c0ffee"},
        **{"trust_remote_code": True, "load_format": "auto", "batch_size": "auto"},
        **{"tensor_parallel_size": max(torch.cuda.device_count(), 1), "max_model_len": 3000},
    }
