"""The evaluation stage: artifacts, and resuming after any task."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlgen.evaluation.evaluate import evaluate
from rlgen.evaluation.harness import Harness
from rlgen.stage import content_digest
from rlgen.study.stages import EvaluateSettings
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
