"""The live harness: as the harness's own, reproducible, and open to edits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.data.tasks import make_task
from rlgen.errors import StudyError
from rlgen.evaluation.harness import COLUMNS, Harness
from rlgen.evaluation.lm import LiveLM, batches
from rlgen.models import ResidualEdit, edited, load_model, load_tokenizer, residuals
from rlgen.sampling import choose
from rlgen.study.sections import BenchmarkTask, Evaluation, JsonlTask, TokenSet
from rlgen.study.stages import TaskSettings
from tests.data.test_problems import jsonl
from tests.evaluation.conftest import EVALUATION, VERIFIERS


@pytest.fixture
def harness(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: dict[str, Path]) -> Harness:
    return Harness(model, tokenizer, list(tasks.values()), EVALUATION, VERIFIERS)


def stock(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> HFLM:
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=7)


def test_log_likelihoods_are_the_harnesss_own(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, harness: Harness
) -> None:
    requests = [request for group in harness._tasks["pick"].requests.values() for request in group]
    ours = LiveLM(model, tokenizer, 16).loglikelihood(requests, disable_tqdm=True)
    theirs = stock(model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_greedy_answers_are_the_harnesss_own(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, harness: Harness
) -> None:
    requests = [request for group in harness._tasks["max"].requests.values() for request in group]
    for request in requests:
        request.args[1].update(do_sample=False, temperature=0.0, until=["="])
    ours = LiveLM(model, tokenizer, 16).generate_until(requests)
    assert ours == stock(model, tokenizer).generate_until(requests, disable_tqdm=True)
    assert len(set(ours)) > 1


def test_the_task_file_runs_in_the_harness_alone(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    manager = TaskManager(include_path=[str(folder) for folder in tasks.values()], include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=LiveLM(model, tokenizer, 64), tasks=list(tasks), task_manager=manager, bootstrap_iters=0
    )
    ours = Harness(model, tokenizer, list(tasks.values()), EVALUATION, VERIFIERS).run(samples=EVALUATION.samples)
    values = ours.groupby("task")["right"].mean()
    for task, filtered in (("max", "all"), ("cnt", "all"), ("pick", "none")):
        assert found["results"][task][f"acc,{filtered}"] == pytest.approx(values[task])


def test_a_run_has_every_item_and_sample_in_order(harness: Harness) -> None:
    frame = harness.run(["pick", "max"], items={"max": ["max-7", "max-2"]}, samples=2)
    assert list(frame.columns) == COLUMNS
    assert (frame["task"] == "pick").sum() == 40
    asked = frame[frame["task"] == "max"][["item", "sample"]].to_numpy().tolist()
    assert asked == [["max-7", 0], ["max-7", 1], ["max-2", 0], ["max-2", 1]]
    assert frame["right"].dtype == bool
    assert (frame["prompt"] == [harness.prompts(t)[i] for t, i in zip(frame["task"], frame["item"], strict=True)]).all()
    correct = frame["answer"] == frame["gold"]
    assert (correct == frame["right"]).all()


def test_a_choice_is_kept_as_the_text_that_was_scored(harness: Harness) -> None:
    """Prompt and response together are one request's text, delimiter and all: what tokenises as it was scored."""
    frame = harness.run(["pick"])
    for row in frame.itertuples():
        requests = harness._tasks["pick"].requests[row.item]
        choices = harness._tasks["pick"].rows[row.item]["choices"]
        assert row.prompt + row.response == "".join(requests[choices.index(row.answer)].args)


def test_answers_follow_from_seed_prompt_and_sample_alone(harness: Harness) -> None:
    whole = harness.run(samples=2, seed=5)
    pd.testing.assert_frame_equal(whole, harness.run(samples=2, seed=5))
    some = harness.run(["cnt", "max"], items={"max": harness.items("max")[10:20]}, samples=2, seed=5)
    merged = some.merge(whole, on=["task", "item", "sample"])
    assert len(merged) == 60
    assert (merged["response_x"] == merged["response_y"]).mean() > 0.95  # but for rounding in another batch
    other = harness.run(["max"], samples=2, seed=6)
    assert (other["response"].to_numpy() != whole[whole["task"] == "max"]["response"].to_numpy()).any()
    first, second = (whole[(whole["task"] == "max") & (whole["sample"] == s)]["response"].to_numpy() for s in (0, 1))
    assert (first != second).any()


def test_answers_too_long_for_the_model_are_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: dict[str, Path]
) -> None:
    model.config.max_position_embeddings = 12
    with pytest.raises(StudyError, match=r"evaluation\.max_new_tokens: 12 in task `max`"):
        Harness(model, tokenizer, [tasks["max"]], EVALUATION)


def benchmark(tmp_path: Path, name: str, *rows: dict[str, Any], **settings: Any) -> Path:
    task = BenchmarkTask(name=name, source="benchmark", path=jsonl(tmp_path / f"{name}.jsonl", *rows), **settings)
    make_task(TaskSettings(task=task, evaluation=EVALUATION), out=tmp_path / name)
    return tmp_path / name


def test_a_prompt_that_leaves_no_room_is_named(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [{"id": f"p{n}", "problem": "1" * n, "answer": "2"} for n in (10, 200)]
    folder = benchmark(tmp_path, "math500", *rows, max_new_tokens=8)
    with pytest.raises(StudyError, match=r"task `math500`, item `p200`: its prompt has 2\d\d tokens.*room for 120"):
        Harness(model, tokenizer, [folder], EVALUATION)


def test_choices_that_are_cut_are_named(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"id": f"q{n}", "question": "1" * n, "choices": ["a", "b"], "answer": 1} for n in (10, 200, 300)]
    folder = benchmark(tmp_path, "piqa", *rows)
    with caplog.at_level("WARNING", logger="rlgen"):
        found = Harness(model, tokenizer, [folder], EVALUATION)
    assert "task `piqa`: 2 of 3 items are longer than the model's 128 tokens" in caplog.text
    assert "`q200`" in caplog.text
    assert len(found.run()) == 3


@pytest.mark.parametrize("tokens", [1, 40, 300])
def test_batches_of_so_many_tokens_give_the_same(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: dict[str, Path], tokens: int
) -> None:
    seen: list[int] = []
    forward = model.forward

    def counted(*args: Any, **settings: Any) -> Any:
        seen.append(settings["input_ids"].numel() if settings["input_ids"].shape[1] > 1 else 0)
        return forward(*args, **settings)

    whole = Harness(model, tokenizer, list(tasks.values()), EVALUATION, VERIFIERS).run(samples=2, seed=3)
    limited = EVALUATION.model_copy(update={"batch_tokens": tokens})
    model.forward = counted
    frame = Harness(model, tokenizer, list(tasks.values()), limited, VERIFIERS).run(samples=2, seed=3)
    assert max(seen) <= max(tokens, 30)  # the longest sequence is fed alone
    assert frame[["task", "item", "sample"]].equals(whole[["task", "item", "sample"]])
    assert (frame["response"] == whole["response"]).mean() > 0.95  # but for rounding in another batch
    for likelihoods, expected in zip(frame["log_likelihoods"], whole["log_likelihoods"], strict=True):
        assert likelihoods == (expected if expected is None else pytest.approx(expected, abs=1e-4))


@given(st.lists(st.integers(1, 60)), st.integers(1, 8), st.one_of(st.none(), st.integers(1, 200)))
def test_batches_hold_every_item_once_and_no_more_than_they_may(
    lengths: list[int], most: int, tokens: int | None
) -> None:
    ordered = sorted(lengths, reverse=True)
    found = list(batches(ordered, int, most, tokens))
    assert [item for batch in found for item in batch] == ordered
    for batch in found:
        assert 1 <= len(batch) <= most
        assert tokens is None or len(batch) == 1 or len(batch) * batch[0] <= tokens


# ------------------------------------------------------------------------------------------------ edits


def record(model: PreTrainedModel, harness: Harness, task: str) -> Iterator[dict[str, Any]]:
    """Every forward pass of a run: its residual stream's shape, token sets and inputs."""
    seen: list[dict[str, Any]] = []

    def look(resid_BPD: Tensor) -> Tensor:
        sets = {name: harness.positions.mask(name) for name in ("prompt", "last_prompt", "answer", "all")}
        seen.append({"resid": resid_BPD.clone(), "inputs": harness.positions.inputs(), **sets})
        return resid_BPD

    with edited(model, 1, look):
        harness.run([task], samples=1)
    return iter(seen)


def test_token_sets_of_generation(model: PreTrainedModel, harness: Harness) -> None:
    first, *later = record(model, harness, "max")
    assert later
    lengths = first["inputs"]["attention_mask"].sum(1)
    assert (first["prompt"].sum(1) == lengths).all()
    assert first["last_prompt"][:, -1].all()
    assert first["last_prompt"].sum() == len(lengths)
    assert not first["answer"].any()
    for step in later:
        assert step["resid"].shape[1] == 1
        assert step["answer"].all()
        assert not step["prompt"].any()
    assert len(later[-1]["answer"]) < len(lengths), "rows that have ended leave the batch"


def test_token_sets_of_log_likelihood(model: PreTrainedModel, harness: Harness) -> None:
    for step in record(model, harness, "pick"):
        inputs = step["inputs"]
        assert (step["all"] == inputs["attention_mask"].bool()).all()
        assert (step["prompt"].sum(1) + step["answer"].sum(1) == step["all"].sum(1)).all()
        assert (step["last_prompt"].sum(1) == 1).all()
        ends = step["last_prompt"].float().argmax(1)
        colon = torch.stack([row[end] for row, end in zip(inputs["input_ids"], ends, strict=True)])
        assert len(colon.unique()) == 1, "every prompt ends with the same character"


@pytest.mark.parametrize("task", ["max", "pick"])
def test_inputs_let_another_model_read_the_same(model: PreTrainedModel, harness: Harness, task: str) -> None:
    for step in record(model, harness, task):
        again = residuals(model, [1], **step["inputs"])[:, -step["resid"].shape[1] :, 0]
        torch.testing.assert_close(again[step["all"]], step["resid"][step["all"]], rtol=1e-3, atol=1e-4)


def test_an_edit_changes_answers_where_it_is_made(model: PreTrainedModel, harness: Harness) -> None:
    plain = harness.run(seed=1)

    shift = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))

    def add(size: float, tokens: TokenSet) -> ResidualEdit:
        return lambda resid: resid + size * harness.positions.mask(tokens)[..., None] * shift

    with edited(model, 1, add(0.0, "all")):
        pd.testing.assert_frame_equal(harness.run(seed=1), plain)
    for tokens, tasks in (("last_prompt", ["max", "cnt"]), ("answer", ["pick"])):
        with edited(model, 1, add(50.0, tokens)):  # type: ignore[arg-type]
            changed = harness.run(seed=1)
        for task in tasks:
            where = plain["task"] == task
            assert (changed["response"][where] != plain["response"][where]).any()
    pd.testing.assert_frame_equal(harness.run(seed=1), plain)


def test_no_token_sets_outside_a_run(harness: Harness) -> None:
    harness.run(["max"])
    with pytest.raises(RuntimeError, match="no forward pass"):
        harness.positions.mask("all")


# --------------------------------------------------------------------------------------------- sampling


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    uniform = torch.from_numpy(np.random.default_rng(0).random(40_000))
    tokens = choose(logits.expand(40_000, -1), 0.5, uniform)
    rates = torch.bincount(tokens, minlength=4) / 40_000
    torch.testing.assert_close(rates, torch.softmax(logits[0] / 0.5, 0), atol=0.01, rtol=0)


def test_no_temperature_is_greedy() -> None:
    assert choose(torch.tensor([[0.0, 3.0, 2.0]]), 0.0, None).tolist() == [1]


def test_a_real_model_on_real_items(real_model: Path, real_data: Path, tmp_path: Path) -> None:
    path = real_data / "sciq_test.jsonl"
    task = JsonlTask(name="sciq", source="jsonl", path=path, format="multiple_choice", items=50)
    evaluation = Evaluation(batch_size=32)
    make_task(TaskSettings(task=task, evaluation=evaluation), out=tmp_path / "sciq")
    frame = Harness(load_model(real_model), load_tokenizer(real_model), [tmp_path / "sciq"], evaluation).run()
    assert len(frame) == 50
    assert 0.1 < frame["right"].mean() < 0.6
