"""A tiny model and tasks in both formats."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3ForCausalLM

from rlgen.data.tasks import make_task
from rlgen.models import load_tokenizer
from rlgen.study.sections import Evaluation, JsonlTask, MiniatureTask
from rlgen.study.stages import TaskSettings
from tests.evaluation.tiny import make_tiny

EVALUATION = Evaluation(samples=2, max_new_tokens=12, batch_size=64)
WORLD = "rlgen.data.miniature:judge"
VERIFIERS = dict.fromkeys(("max", "cnt"), WORLD)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tokenizer(tiny: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny)


@pytest.fixture
def model(tiny: Path) -> PreTrainedModel:
    return Qwen3ForCausalLM.from_pretrained(tiny).eval()


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`max` and `cnt` of the world, and `pick`, a multiple-choice task with choices of one token and of several."""
    root = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "id": f"p{n}",
            "question": "q" * (n % 5 + 1),
            "choices": ["a", "b", "ab c", "abba"][: n % 3 + 2],
            "answer": n % 2,
        }
        for n in range(40)
    ]
    (root / "pick.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {
        "max": MiniatureTask(name="max", source="miniature", items=30),
        "cnt": MiniatureTask(name="cnt", source="miniature", items=20),
        "pick": JsonlTask(name="pick", source="jsonl", path=root / "pick.jsonl", format="multiple_choice"),
    }
    for name, task in found.items():
        make_task(TaskSettings(task=task, evaluation=EVALUATION, verifier=WORLD), out=root / name)
    return {name: root / name for name in found}
