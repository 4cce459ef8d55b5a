"""The evaluation stage: artifacts, and resuming after any task."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from rlgen.data.tasks import make_task, read_items
from rlgen.evaluation.evaluate import evaluate
from rlgen.evaluation.harness import Harness
from rlgen.evaluation.scoring import accuracy
from rlgen.stage import content_digest
from rlgen.study.sections import JsonlTask, MiniatureTask
from rlgen.study.stages import EvaluateSettings, TaskSettings
from tests.evaluation.conftest import EVALUATION, VERIFIERS

SETTINGS = EvaluateSettings(evaluation=EVALUATION, verifiers=VERIFIERS)


def test_items_and_accuracies(tiny: Path, tasks: dict[str, Path], tmp_path: Path) -> None:
    evaluate(SETTINGS, model=tiny, tasks=list(tasks.values()), out=tmp_path / "out")
    frame = pd.read_parquet(tmp_path / "out" / "items.parquet")
    counts = frame.groupby("task").size().to_dict()
    assert counts == {"max": 60, "cnt": 40, "pick": 40}
    found = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    for task, rows in frame.groupby("task"):
        value = found[task]
        assert value["value"] == pytest.approx(rows["right"].mean())
        assert value["n"] == rows["item"].nunique()
        assert value["low"] <= value["value"] <= value["high"]
    assert set(frame["model"]) == {tiny.name}


def test_choices_have_likelihoods_and_a_chance_level(tiny: Path, tasks: dict[str, Path], tmp_path: Path) -> None:
    evaluate(SETTINGS, model=tiny, tasks=[tasks["pick"], tasks["cnt"]], out=tmp_path / "out")
    frame = pd.read_parquet(tmp_path / "out" / "items.parquet")
    found = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert found["cnt"].keys() == {"value", "n", "low", "high"}
    assert frame[frame["task"] == "cnt"][["log_likelihoods", "right_norm"]].isna().all(axis=None)
    choices = {row["id"]: row["choices"] for row in read_items(tasks["pick"])}
    assert found["pick"]["chance"] == pytest.approx(sum(1 / len(c) for c in choices.values()) / len(choices))
    pick = frame[frame["task"] == "pick"]
    for row in pick.itertuples():
        assert len(row.log_likelihoods) == len(choices[row.item])
        assert choices[row.item][row.log_likelihoods.argmax()] == row.answer
        by_character = row.log_likelihoods / [len(choice) for choice in choices[row.item]]
        assert row.right_norm == (choices[row.item][by_character.argmax()] == row.gold)
    assert (pick["right_norm"] != pick["right"]).any()
    assert found["pick"]["acc_norm"] == accuracy(pick["right_norm"].astype(bool), pick["item"])


def test_columns_have_their_types_whatever_the_tasks_are(tiny: Path, tasks: dict[str, Path], tmp_path: Path) -> None:
    for name in ("pick", "cnt"):
        evaluate(SETTINGS, model=tiny, tasks=[tasks[name]], out=tmp_path / name)
    schemas = [pq.read_schema(tmp_path / name / "items.parquet") for name in ("pick", "cnt")]
    assert schemas[0].equals(schemas[1])
    assert str(schemas[0].field("log_likelihoods").type) == "list<element: double>"


def test_a_task_may_have_samples_of_its_own(tiny: Path, tmp_path: Path) -> None:
    for name, samples in (("a", None), ("b", 5)):
        task = MiniatureTask(name=name, task="cnt", source="miniature", items=10, samples=samples)
        make_task(TaskSettings(task=task, evaluation=EVALUATION), out=tmp_path / name)
    evaluate(SETTINGS, model=tiny, tasks=[tmp_path / "a", tmp_path / "b"], out=tmp_path / "out")
    frame = pd.read_parquet(tmp_path / "out" / "items.parquet")
    assert frame.groupby("task").size().to_dict() == {"a": 20, "b": 50}
    assert sorted(set(frame["sample"])) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("done", [1, 2])
def test_an_interrupted_evaluation_ends_with_the_same_bytes(
    tiny: Path, tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    interrupted(tiny, list(tasks.values()), tmp_path, monkeypatch, done)


def interrupted(model: Path, tasks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    """Stop an evaluation after so many units, and run it again."""
    inputs = {"model": model, "tasks": tasks}
    evaluate(SETTINGS, out=tmp_path / "undisturbed", **inputs)  # type: ignore[arg-type]
    run, calls = Harness.run, iter(range(done))

    def until_stopped(self: Harness, *args: Any, **rest: Any) -> pd.DataFrame:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return run(self, *args, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Harness, "run", until_stopped)
        with pytest.raises(KeyboardInterrupt):
            evaluate(SETTINGS, out=tmp_path / "killed", **inputs)  # type: ignore[arg-type]
    assert len(list((tmp_path / "killed.partial").rglob("*.parquet"))) == done
    evaluate(SETTINGS, out=tmp_path / "killed", **inputs)  # type: ignore[arg-type]
    assert content_digest(tmp_path / "killed") == content_digest(tmp_path / "undisturbed")


# ---------------------------------------------------------------------------------------------------- units


def repeated(tmp_path: Path) -> Path:
    """A task of 12 items, its first prompt again as the 6th and the last."""
    path = tmp_path / "rows.jsonl"
    asked = [f"q {n if n not in (5, 11) else 0}." for n in range(12)]
    rows = ({"id": f"i{n}", "question": question, "answer": "1"} for n, question in enumerate(asked))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = JsonlTask(name="rep", source="jsonl", path=path, format="generate", prompt="{question}")
    make_task(TaskSettings(task=task, evaluation=EVALUATION), out=tmp_path / "rep")
    return tmp_path / "rep"


def units(monkeypatch: pytest.MonkeyPatch, items: int) -> None:
    """Let a unit be so many items of the tests' tasks."""
    monkeypatch.setattr("rlgen.evaluation.evaluate.UNIT_TOKENS", items * EVALUATION.samples * EVALUATION.max_new_tokens)


@pytest.mark.parametrize("size", [1, 5, 12])
def test_answers_are_the_same_whatever_the_units_are(
    tiny: Path, tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    folders = [repeated(tmp_path), tasks["cnt"], tasks["pick"]]
    evaluate(SETTINGS, model=tiny, tasks=folders, out=tmp_path / "whole")
    units(monkeypatch, size)
    evaluate(SETTINGS, model=tiny, tasks=folders, out=tmp_path / "parts")
    whole, parts = (pd.read_parquet(tmp_path / name / "items.parquet") for name in ("whole", "parts"))
    exact = [column for column in whole if column != "log_likelihoods"]
    pd.testing.assert_frame_equal(parts[exact], whole[exact])
    same = whole[(whole["task"] == "rep") & whole["item"].isin(["i0", "i5", "i11"])]
    assert same["prompt"].nunique() == 1
    assert same["response"].nunique() > 2, "a prompt that is asked again has other random numbers"


def test_a_unit_is_as_many_items_as_the_limit_allows(
    tiny: Path, tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []
    run = Harness.run

    def remembered(self: Harness, names: list[str], items: dict[str, list[str]], **rest: Any) -> pd.DataFrame:
        asked.append((names[0], items[names[0]]))
        return run(self, names, items, **rest)

    monkeypatch.setattr(Harness, "run", remembered)
    units(monkeypatch, 5)
    evaluate(SETTINGS, model=tiny, tasks=[repeated(tmp_path), tasks["cnt"], tasks["pick"]], out=tmp_path / "out")
    of = {name: [items for task, items in asked if task == name] for name in ("rep", "cnt", "pick")}
    assert of["rep"] == [["i0", "i1", "i2", "i5", "i11"], ["i3", "i4", "i6", "i7", "i8"], ["i9", "i10"]]
    assert [len(items) for items in of["cnt"]] == [5, 5, 5, 5]
    assert [len(items) for items in of["pick"]] == [40], "nothing is generated"


@pytest.mark.parametrize("done", [1, 3, 6])
def test_an_evaluation_interrupted_within_a_task_ends_with_the_same_bytes(
    tiny: Path, tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    units(monkeypatch, 5)
    interrupted(tiny, [repeated(tmp_path), tasks["cnt"], tasks["pick"]], tmp_path, monkeypatch, done)
