"""Training problems: both sources, and messages that name the row."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlgen.data.answers import is_right
from rlgen.data.problems import make_problems, read_problems
from rlgen.data.tasks import make_task, read_items
from rlgen.errors import StudyError
from rlgen.study.sections import Evaluation, JsonlProblems, MiniatureProblems, MiniatureTask
from rlgen.study.stages import ProblemsSettings, TaskSettings


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def make(tmp_path: Path, problems: JsonlProblems | MiniatureProblems, seed: int = 0) -> list[dict[str, Any]]:
    out = tmp_path / f"problems-{seed}"
    make_problems(ProblemsSettings(seed=seed, problems=problems), out=out)
    return read_problems(out)


def test_miniature_problems_are_solved_and_kept_apart_from_every_evaluation(tmp_path: Path) -> None:
    rows = make(tmp_path, MiniatureProblems(source="miniature", task="mod", items=1000))
    assert len({row["prompt"] for row in rows}) == 1000
    assert all(is_right(row["prompt"], row["solution"], row["answer"]) for row in rows)
    assert rows != make(tmp_path, MiniatureProblems(source="miniature", task="mod", items=1000), seed=1)
    for seed in range(3):
        task = MiniatureTask(name="mod", source="miniature", items=400)
        make_task(TaskSettings(seed=seed, task=task, evaluation=Evaluation()), out=tmp_path / f"task-{seed}")
        assert not {row["prompt"] for row in rows} & {row["prompt"] for row in read_items(tmp_path / f"task-{seed}")}


def test_jsonl_problems(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", {"id": "x", "q": "1 {+} 1?", "answer": 2, "why": "count"}, "", {"q": "b", "answer": "3"}
    )
    found = JsonlProblems(source="jsonl", path=path, prompt="{q}\n", solution="why", items=1)
    assert make(tmp_path, found) == [{"id": "x", "prompt": "1 {+} 1?\n", "answer": "2", "solution": "count"}]
    unsolved = JsonlProblems(source="jsonl", path=path, prompt="{q}\n", solution=None)
    assert [row["solution"] for row in make(tmp_path, unsolved, seed=1)] == [None, None]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"problem": "a", "answer": "1"}], {}, r"line 1: no field `solution`"),
        ([{"problem": "a", "answer": "1", "solution": "s"}, {"answer": "2"}], {}, r"line 2: no field `problem`"),
        ([{"problem": "a", "solution": "s"}], {}, r"line 1: no field `answer`; it has problem, solution"),
        ([{"problem": "a", "answer": " ", "solution": "s"}], {}, r"line 1: field `answer` is empty"),
        ([], {}, r"has no rows"),
        (["{"], {}, r"line 1: not JSON"),
        (["[1]"], {}, r"line 1: not a JSON object"),
        ([{"id": 1, "problem": "a", "answer": "1", "solution": "s"}] * 2, {}, r"id `1` is there twice"),
        ([{"problem": "a", "answer": "1", "solution": "s"}], {"prompt": "{problem"}, r"prompt: .* format string"),
        (
            [{"problem": "a", "answer": "1", "solution": "s"}],
            {"prompt": "{problem.b}"},
            r"prompt: .*problem\.b.* format string",
        ),
        ([{"problem": "a", "answer": "1", "solution": "s"}], {"prompt": "{problem[x]}"}, r"prompt: .* format string"),
        (
            [{"problem": {"x": "a"}, "answer": "1", "solution": "s"}],
            {"prompt": "{problem[answer]}"},
            r"prompt: .* format string",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[Any], settings: dict[str, Any], message: str) -> None:
    path = jsonl(tmp_path / "bad.jsonl", *rows)
    with pytest.raises(StudyError, match=message):
        make(tmp_path, JsonlProblems(source="jsonl", path=path, **settings))
    assert not (tmp_path / "problems-0").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"gone\.jsonl"):
        make(tmp_path, JsonlProblems(source="jsonl", path=tmp_path / "gone.jsonl"))


def test_gsm8k(tmp_path: Path, real_data: Path) -> None:
    rows = make(tmp_path, JsonlProblems(source="jsonl", path=real_data / "gsm8k_train.jsonl", items=50))
    assert len(rows) == 50
    assert all(is_right(row["prompt"], row["solution"], row["answer"]) for row in rows)
