"""Evaluations are judged by the verifier of the settings, and an artifact never says which code is run."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.data.tasks import make_task
from rlgen.errors import StudyError
from rlgen.evaluation.harness import Harness
from rlgen.evaluation.scoring import process_results_own
from rlgen.study.sections import MiniatureTask
from rlgen.study.stages import TaskSettings
from tests.evaluation.conftest import EVALUATION

OWN = """
from pathlib import Path
Path("imported").touch()
def judge(response, gold):
    return "own", response.startswith("=")
def process_results(doc, results):
    raise AssertionError("an artifact's function was run")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_judge.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(tmp_path: Path, verifier: str) -> Path:
    task = MiniatureTask(name="max", source="miniature", items=10)
    make_task(TaskSettings(task=task, evaluation=EVALUATION, verifier=verifier), out=tmp_path / "max")
    return tmp_path / "max"


def test_the_settings_verifier_judges(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, own: Path) -> None:
    frame = Harness(model, tokenizer, [made(own, "math")], EVALUATION, {"max": "own_judge:judge"}).run()
    assert (frame["answer"] == "own").all()
    assert (frame["right"] == frame["response"].str.startswith("=")).all()


def test_a_task_s_folder_never_says_which_code_is_run(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, own: Path
) -> None:
    folder = made(own, "math")
    text = (folder / "task.yaml").read_text()
    assert "!function rlgen.evaluation.scoring.process_results\n" in text or "'rlgen.evaluation" in text
    (folder / "task.yaml").write_text(
        text.replace("rlgen.evaluation.scoring.process_results", "own_judge.process_results")
    )
    about = json.loads((folder / "task.json").read_text())
    (folder / "task.json").write_text(json.dumps({**about, "verifier": "own_judge:judge"}))
    Harness(model, tokenizer, [folder], EVALUATION).run()
    assert not (own / "imported").exists()


@pytest.mark.parametrize(
    ("verifier", "hook"),
    [
        ("math", "process_results"),
        ("text", "process_results_text"),
        ("rlgen.data.miniature:judge", "process_results_miniature"),
        ("own_judge:judge", "process_results_own"),
    ],
)
def test_a_task_s_file_names_rlgen_s_own_functions_only(verifier: str, hook: str, own: Path) -> None:
    text = (made(own, verifier) / "task.yaml").read_text()
    assert f"rlgen.evaluation.scoring.{hook}'" in text or f"rlgen.evaluation.scoring.{hook}\n" in text
    assert "own_judge" not in text


def test_the_harness_alone_does_not_guess_a_verifier_of_the_user_s() -> None:
    with pytest.raises(StudyError, match="a verifier of the study's own"):
        process_results_own({"answer": "1"}, ["1"])


def test_no_answer_is_null(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, own: Path) -> None:
    (own / "silent.py").write_text("def judge(response, gold):\n    return None, False\n")
    frame = Harness(model, tokenizer, [made(own, "math")], EVALUATION, {"max": "silent:judge"}).run()
    assert frame["answer"].isna().all()
    assert not frame["right"].any()
