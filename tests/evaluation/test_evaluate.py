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
from rlgen.study.sections import MiniatureTask
from rlgen.study.stages import EvaluateSettings, TaskSettings
from tests.evaluation.conftest import EVALUATION

SETTINGS = EvaluateSettings(evaluation=EVALUATION)


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
    inputs = {"model": tiny, "tasks": list(tasks.values())}
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
