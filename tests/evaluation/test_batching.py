"""How many answers depend on their batch, by precision."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlgen.data.tasks import make_task
from rlgen.evaluation import batching
from rlgen.evaluation.batching import ANSWERS, STEPS, _sample, _size
from rlgen.evaluation.evaluate import BATCH_JSON, evaluate
from rlgen.evaluation.harness import Harness
from rlgen.models import load_model, load_tokenizer
from rlgen.stage import content_digest, read_manifest
from rlgen.study.sections import Evaluation, JsonlTask
from rlgen.study.stages import EvaluateSettings, TaskSettings
from tests.evaluation.conftest import EVALUATION

LONG = EVALUATION.model_copy(update={"max_new_tokens": 60, "samples": 1, "batch_size": 40})


@pytest.fixture(scope="module")
def coarse(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model by precision."""
    found = {}
    for dtype in ("float32", "bfloat16", "float16"):
        found[dtype] = tmp_path_factory.mktemp(dtype) / "tiny"
        load_model(tiny, dtype=dtype).save_pretrained(found[dtype])
        load_tokenizer(tiny).save_pretrained(found[dtype])
    return found


@pytest.fixture(scope="module")
def long_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 prompts of several lengths, which are padded when they share a batch, and long answers."""
    folder = tmp_path_factory.mktemp("task")
    rows = ({"id": f"i{n}", "question": "ab c" * (n % 9) + f"{n}.", "answer": "1"} for n in range(40))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = JsonlTask(name="long", source="jsonl", path=folder / "rows.jsonl", format="generate", prompt="q {question}")
    make_task(TaskSettings(task=task, evaluation=LONG), out=folder / "long")
    return folder / "long"


def run(model: Path, tasks: list[Path], out: Path, evaluation: Evaluation = LONG) -> dict[str, Any]:
    evaluate(EvaluateSettings(evaluation=evaluation), model=model, tasks=tasks, out=out)
    return read_manifest(out)


def test_in_bfloat16_answers_that_differ_in_other_batches_are_counted(
    coarse: dict[str, Path], long_task: Path, tmp_path: Path
) -> None:
    manifest = run(coarse["bfloat16"], [long_task], tmp_path / "out")
    found = manifest["batch_dependence"]
    assert (manifest["precision"], found["dtype"], found["compared"]) == ("bfloat16", "bfloat16", ANSWERS)
    assert found["batch_size"] == {"long": 1}
    assert 0 < found["different"] < ANSWERS
    assert 0 <= found["right_changed"] <= found["different"]
    assert json.loads((tmp_path / "out" / BATCH_JSON).read_text()) == found

    alone = run(coarse["bfloat16"], [long_task], tmp_path / "alone", LONG.model_copy(update={"batch_size": 1}))
    frames = [pd.read_parquet(tmp_path / name / "items.parquet") for name in ("out", "alone")]
    rate = (frames[0]["response"] != frames[1]["response"]).mean()
    assert found["different"] / ANSWERS == pytest.approx(rate, abs=0.25), "the rate is that of all answers"
    assert alone["batch_dependence"]["batch_size"] == {"long": 8}, "where they were alone, second answers are not"
    assert alone["batch_dependence"]["different"] > 0


def test_float32_costs_and_changes_nothing(
    coarse: dict[str, Path], tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr("rlgen.evaluation.evaluate.batch_dependence", never)
    manifest = run(coarse["float32"], list(tasks.values()), tmp_path / "out", EVALUATION)
    assert manifest["precision"] == "float32"
    assert "batch_dependence" not in manifest
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {"items.parquet", "accuracy.json", "manifest.json"}


def test_in_float32_next_to_no_answer_differs(
    coarse: dict[str, Path], long_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlgen.evaluation.evaluate.EXACT", ())
    assert run(coarse["float32"], [long_task], tmp_path / "out")["batch_dependence"]["different"] <= 1


def test_choices_and_several_tasks_and_samples_are_compared_too(
    coarse: dict[str, Path], tasks: dict[str, Path], tmp_path: Path
) -> None:
    found = run(coarse["float16"], list(tasks.values()), tmp_path / "out", EVALUATION)["batch_dependence"]
    assert (found["dtype"], found["compared"]) == ("float16", ANSWERS)
    assert found["batch_size"] == dict.fromkeys(tasks, 1)


@pytest.mark.parametrize("done", [0, 1, 3])
def test_interrupted_it_ends_with_the_same_bytes(
    coarse: dict[str, Path], tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    folders, usual, calls = list(tasks.values()), Harness.run, iter(range(done))
    run(coarse["bfloat16"], folders, tmp_path / "undisturbed", EVALUATION)

    def until_stopped(self: Harness, *args: Any, **rest: Any) -> pd.DataFrame:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return usual(self, *args, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Harness, "run", until_stopped)
        with pytest.raises(KeyboardInterrupt):
            run(coarse["bfloat16"], folders, tmp_path / "killed", EVALUATION)
    manifest = run(coarse["bfloat16"], folders, tmp_path / "killed", EVALUATION)
    assert content_digest(tmp_path / "killed") == content_digest(tmp_path / "undisturbed")
    assert manifest["batch_dependence"] == read_manifest(tmp_path / "undisturbed")["batch_dependence"]


def test_what_was_measured_is_not_measured_again(
    coarse: dict[str, Path], tasks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("rlgen.evaluation.evaluate.accuracy", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(coarse["bfloat16"], [tasks["max"]], tmp_path / "out", EVALUATION)
    monkeypatch.setattr("rlgen.evaluation.evaluate._runner", lambda *_: 1 / 0)
    assert run(coarse["bfloat16"], [tasks["max"]], tmp_path / "out", EVALUATION)["precision"] == "bfloat16"


def test_the_sample_is_spread_over_tasks_and_items_and_takes_no_prompt_twice() -> None:
    rows = [
        {"item": f"i{n}", "sample": s, "prompt": f"p{n % 90}", "log_likelihoods": None}
        for n in range(100)
        for s in (0, 1)
    ]
    frame = pd.DataFrame(rows)
    found = _sample({"a": frame, "b": frame[frame["item"].isin(["i0", "i1", "i99"])], "c": frame})
    assert [len(rows) for rows in found.values()] == [11, 3, 10]
    assert found["a"]["prompt"].is_unique
    assert set(found["a"]["sample"]) == {0}
    assert (found["a"]["item"].iloc[0], found["a"]["item"].iloc[-1]) == ("i0", "i89")
    many = {str(n): frame for n in range(50)}
    assert {len(rows) for rows in _sample(many).values()} == {1}


@pytest.mark.parametrize(
    ("count", "new_tokens", "usual", "size"),
    [(32, 48, 256, 1), (32, 512, 256, 4), (32, 16384, 256, 16), (1, 16384, 256, 1), (32, 0, 256, 1), (32, 48, 1, 8)],
)
def test_long_answers_share_larger_batches_than_their_cost_allows(
    count: int, new_tokens: int, usual: int, size: int
) -> None:
    assert _size(count, new_tokens, usual) == size
    assert batching.STEPS == STEPS
    batches = -(-count // size)
    assert batches * new_tokens <= max(STEPS, 2 * new_tokens)
    assert _size(count, new_tokens, None) >= 1


def test_never_the_usual_batch_size() -> None:
    assert all(_size(count, 4096, usual) != usual for count in (2, 8, 32) for usual in (1, 2, 4, 8, 16, 32, 64))
