"""Evaluation tasks: items and what is refused. That the harness runs them is tested in tests/evaluation."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from rlgen.data.tasks import make_task, read_items
from rlgen.errors import StudyError
from rlgen.study.sections import Evaluation, JsonlTask, MiniatureTask
from rlgen.study.stages import TaskSettings
from tests.data.test_problems import jsonl


def make(out: Path, task: JsonlTask | MiniatureTask, seed: int = 0) -> list[dict[str, Any]]:
    make_task(TaskSettings(seed=seed, task=task, evaluation=Evaluation()), out=out)
    return read_items(out)


def test_a_miniature_task_takes_its_own_items(tmp_path: Path) -> None:
    rows = make(tmp_path / "a", MiniatureTask(name="max", source="miniature", items=200))
    assert len({row["prompt"] for row in rows}) == 200
    assert rows == make(tmp_path / "b", MiniatureTask(name="max", source="miniature", items=200))
    other = make(tmp_path / "c", MiniatureTask(name="again", task="max", source="miniature", items=200))
    assert {row["prompt"] for row in other} != {row["prompt"] for row in rows}
    about = json.loads((tmp_path / "a" / "task.json").read_text())
    assert about == {"name": "max", "format": "generate", "items": 200, "max_new_tokens": 32, "stop": []}


def test_a_world_without_that_task(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"task `arc`: the miniature world has mod, max"):
        make(tmp_path / "a", MiniatureTask(name="arc", source="miniature"))


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"question": "a", "answer": 0}, "multiple_choice", r"line 1: no field `choices`"),
        ({"question": "a", "choices": ["x"], "answer": 0}, "multiple_choice", r"line 1: field `choices` must be"),
        ({"question": "a", "choices": ["x", "y"], "answer": 2}, "multiple_choice", r"line 1: field `answer` is 2"),
        ({"question": "a", "choices": ["x", "y"], "answer": "B"}, "multiple_choice", r"field `answer` is 'B'"),
        ({"question": "a", "choices": ["x", "y"]}, "multiple_choice", r"line 1: no field `answer`"),
        ({"answer": "4"}, "generate", r"line 1: no field `question`"),
    ],
)
def test_bad_rows_are_named(
    tmp_path: Path, row: Any, kind: Literal["multiple_choice", "generate"], message: str
) -> None:
    path = jsonl(tmp_path / "bad.jsonl", row)
    with pytest.raises(StudyError, match=message):
        make(tmp_path / "a", JsonlTask(name="t", source="jsonl", path=path, format=kind))


@pytest.mark.parametrize("name", ["arc_challenge_test", "openbookqa_test", "sciq_test", "piqa_valid"])
def test_real_tasks(tmp_path: Path, real_data: Path, name: str) -> None:
    path = real_data / f"{name}.jsonl"
    task = JsonlTask(name=name, source="jsonl", path=path, format="multiple_choice", items=200)
    rows = make(tmp_path / "a", task)
    assert len(rows) == 200
    assert rows[0]["prompt"].startswith("Question: ")
    assert all(0 <= row["answer"] < len(row["choices"]) for row in rows)
