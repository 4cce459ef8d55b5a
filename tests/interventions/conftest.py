"""A tiny base and arm, their tasks, a crosscoder over both."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.crosscoder.model import Crosscoder
from rlgen.data.tasks import make_task
from rlgen.evaluation.harness import Harness
from rlgen.models import load_model, load_tokenizer
from rlgen.study.sections import Evaluation, MiniatureTask
from rlgen.study.stages import TaskSettings
from tests.features.arms import make_arms, make_crosscoder

EVALUATION = Evaluation(max_new_tokens=8, batch_size=16)
WORLD = "rlgen.data.miniature:judge"
VERIFIERS = dict.fromkeys(("max", "cnt", "min"), WORLD)


@pytest.fixture(scope="session")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_arms(tmp_path_factory.mktemp("arms"))


@pytest.fixture(scope="session")
def tokenizer(arms: dict[str, Path]) -> PreTrainedTokenizerBase:
    return load_tokenizer(arms["base"])


@pytest.fixture(scope="session")
def base(arms: dict[str, Path]) -> PreTrainedModel:
    return load_model(arms["base"])


@pytest.fixture(scope="session")
def arm(arms: dict[str, Path]) -> PreTrainedModel:
    return load_model(arms["arm"])


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("tasks")
    for name in ("max", "cnt", "min"):
        task = MiniatureTask(name=name, source="miniature", items=20)
        make_task(TaskSettings(task=task, evaluation=EVALUATION, verifier=WORLD), out=root / name)
    return [root / name for name in ("max", "cnt", "min")]


@pytest.fixture(scope="session")
def coder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crosscoder") / "base-rl"
    make_crosscoder(folder)
    return folder


@pytest.fixture(scope="session")
def coder(coder_folder: Path) -> Crosscoder:
    return Crosscoder.from_pretrained(coder_folder)


@pytest.fixture
def harness(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: list[Path]) -> Harness:
    return Harness(base, tokenizer, tasks, EVALUATION, VERIFIERS)
