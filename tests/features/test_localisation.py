"""Items, their codes and the localise stage, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from rlgen.data.tasks import make_task, read_items
from rlgen.errors import StudyError
from rlgen.features.codes import Item, item_codes, mark
from rlgen.features.localisation import localise, split_items, wrong_then_right
from rlgen.features.values import SCORES, Rows, read_values
from rlgen.models import load_model, load_tokenizer, residuals
from rlgen.study.sections import CodeKind, Evaluation, Localisation, MiniatureTask, TokenSet
from rlgen.study.stages import LocaliseSettings, TaskSettings
from tests.features.arms import LAYER, make_arms, make_crosscoder
from tests.features.planted import planted, write_rates

SETTINGS = LocaliseSettings(
    localisation=Localisation(crosscoder="base-rl", arm="rl", permutations=20, top=5),
    transfer=["max", "cnt"],
)


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_arms(tmp_path_factory.mktemp("arms"))


def test_which_tokens_count(arms: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(arms["base"])
    item = Item("Q a\nA ", ["12", "3"])  # beginning token, 6 characters; two answers
    counts = {tokens: mark(tokenizer, [item], tokens) for tokens in ("prompt", "last_prompt", "answer", "all")}
    assert [m.counts for m in counts["prompt"]] == [[False] + [True] * 6]
    assert [m.counts for m in counts["last_prompt"]] == [[False] * 6 + [True]]
    assert [m.counts for m in counts["answer"]] == [[False] * 7 + [True] * 2, [False] * 7 + [True]]
    assert [m.counts for m in counts["all"]] == [[False] + [True] * 8, [False] + [True] * 7]


def test_item_codes_are_means_over_sequences_of_means_over_tokens(arms: dict[str, Path], tmp_path: Path) -> None:
    model, tokenizer = load_model(arms["base"]), load_tokenizer(arms["base"])
    coder = make_crosscoder(tmp_path / "c")
    items = [Item("Q max 123456\nA ", ["1234=4", "7"]), Item("Q a\nA ", ["99"])]
    found = item_codes(model, tokenizer, coder, 0, items, "answer")
    for item, codes_F in zip(items, found, strict=True):
        means = []
        for response in item.responses:
            ids = torch.tensor([tokenizer(item.prompt + response)["input_ids"]])
            acts_BD = residuals(model, [LAYER], input_ids=ids)[0, -len(response) :, 0]
            means.append(coder.swap_readout(acts_BD, 0).mean(dim=0))
        torch.testing.assert_close(codes_F, torch.stack(means).mean(dim=0), rtol=1e-4, atol=1e-5)
    coder.limit_M[0] = 1e-9
    none = item_codes(model, tokenizer, coder, 0, items, "answer")
    assert not none.any()  # every token is an outlier


def test_a_forward_pass_reads_no_more_tokens_than_its_budget(
    arms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_model(arms["base"]), load_tokenizer(arms["base"])
    coder = make_crosscoder(tmp_path / "c")
    items = [Item(f"Q max {'9' * (37 * n % 60)}\nA ", ["1234=4", "7", ""]) for n in range(12)]
    whole = item_codes(model, tokenizer, coder, 0, items, "answer")
    shapes = []

    def watched(*given: Any, **inputs: Any) -> Tensor:
        shapes.append(inputs["input_ids"].shape)
        return residuals(*given, **inputs)

    monkeypatch.setattr("rlgen.features.codes.residuals", watched)
    monkeypatch.setattr("rlgen.features.codes.TOKENS", 60)
    torch.testing.assert_close(item_codes(model, tokenizer, coder, 0, items, "answer"), whole, rtol=1e-4, atol=1e-5)
    assert all(rows == 1 or rows * width <= 60 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) > 2
    assert max(width for _, width in shapes) > 60  # a sequence longer than the budget goes alone


def test_the_split_is_of_the_item_and_not_of_its_place() -> None:
    items = [f"max-{i}" for i in range(101)]
    chosen, rest = split_items(items, "max", SETTINGS)
    assert (len(chosen), len(rest)) == (50, 51)
    assert sorted(chosen + rest) == sorted(items)
    assert set(split_items(items[::-1], "max", SETTINGS)[0]) == set(chosen)
    other = SETTINGS.model_copy(update={"seed": 1})
    assert set(split_items(items, "max", other)[0]) != set(chosen)


def test_right_is_right_in_half_of_the_samples() -> None:
    def answers(right: list[bool]) -> pd.DataFrame:
        items = [item for item in "abc" for _ in range(2)]
        return pd.DataFrame({"task": "t", "item": items, "sample": [0, 1] * 3, "right": right})

    base = answers([False, False, True, False, False, False])
    arm = answers([True, False, True, True, False, False])
    found = wrong_then_right({"base": base, "arm": arm}, "t", ["a", "b", "c"])
    assert found.tolist() == [True, False, False]
    with pytest.raises(StudyError, match="t/d"):
        wrong_then_right({"base": base, "arm": arm}, "t", ["d"])


@pytest.fixture
def world(arms: dict[str, Path], tmp_path: Path) -> dict[str, object]:
    """Everything the stage reads; the arm has the even items right, base has none."""
    evaluation = Evaluation(max_new_tokens=8)
    tasks = []
    for name in ("max", "cnt"):
        task = MiniatureTask(name=name, source="miniature", items=24)
        make_task(TaskSettings(task=task, evaluation=evaluation), out=tmp_path / name)
        tasks.append(tmp_path / name)
    for model in ("base", "arm"):
        rows = [
            {
                "task": task.name,
                "item": row["id"],
                "sample": 0,
                "prompt": row["prompt"],
                "response": f"1={row['answer']}",
            }
            | {"right": model == "arm" and place % 2 == 0}
            for task in tasks
            for place, row in enumerate(read_items(task))
        ]
        (tmp_path / f"evaluation-{model}").mkdir()
        pd.DataFrame(rows).to_parquet(tmp_path / f"evaluation-{model}" / "items.parquet")
    make_crosscoder(tmp_path / "crosscoder")
    return {
        "crosscoder": tmp_path / "crosscoder",
        "models": arms,
        "evaluations": {model: tmp_path / f"evaluation-{model}" for model in ("base", "arm")},
        "tasks": tasks,
        "diagnostics": write_rates(tmp_path / "diagnostics", [0.0] + [0.1] * 39),
    }


def test_the_stage_finds_the_features_that_the_arm_raises(world: dict[str, object], tmp_path: Path) -> None:
    localise(SETTINGS, **world, out=tmp_path / "out")  # type: ignore[arg-type]
    found = json.loads((tmp_path / "out" / "localisation.json").read_text())
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert 1 <= len(found["features"]) <= 5
    assert 0 not in found["features"]
    assert found["reason"] is None
    assert not set(found["selection_items"]["max"]) & set(found["measurement_items"]["max"])
    assert len(scores) == 80
    by_task = scores.pivot_table(index="feature", columns="task", values="score")
    assert (by_task.loc[found["features"]] > 0.2 * by_task.max()).all(axis=None)
    assert (np.diff(found["strength"]) <= 0).all()


def with_rule(**changes: object) -> LocaliseSettings:
    return SETTINGS.model_copy(update={"localisation": SETTINGS.localisation.model_copy(update=changes)})


def run(settings: LocaliseSettings, world: dict[str, object], out: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """localisation.json and scores.parquet of the stage."""
    localise(settings, **world, out=out)  # type: ignore[arg-type]
    return json.loads((out / "localisation.json").read_text()), pd.read_parquet(out / "scores.parquet")


def test_every_score_stands_in_the_table(world: dict[str, object], tmp_path: Path) -> None:
    found, scores = run(with_rule(score="attribution", threshold=None, candidates=12), world, tmp_path / "out")
    assert found["features"] == found["by_score"]["attribution"]
    assert (scores["score"] == scores["attribution"]).all()
    difference = scores["mean_code_arm"] - scores["mean_code_base"]
    alive = scores["feature"] != 0
    np.testing.assert_allclose(scores["code_difference"][alive], difference[alive], atol=1e-6)
    mean = scores.groupby("feature")["attribution"].mean()
    assert set(found["features"]) == set(mean[mean > 0].nlargest(SETTINGS.localisation.top).index)
    measured = scores.groupby("feature")["delta_patching"].count()
    assert (measured[1:] > 0).sum() == 12 == found["patched"]["features"]
    assert list(found["by_score_null"]) == sorted(SCORES)
    assert found["by_score_null"]["attribution"]["p"] == found["null"]["strength"]["p"]
    assert len(found["bootstrap"]["frequency"]) == len(found["features"])


@pytest.mark.parametrize("codes", ["swap_readout", "decoder_projection"])
@pytest.mark.parametrize("tokens", ["prompt", "last_prompt", "answer", "all"])
def test_every_token_set_kind_of_code_and_score_go_together(
    world: dict[str, object], tmp_path: Path, tokens: TokenSet, codes: CodeKind
) -> None:
    """The rule is the same whatever is ranked: the best by mean over the tasks, of those that were measured."""
    for score in SCORES:
        settings = with_rule(tokens=tokens, codes=codes, score=score, threshold=None, candidates=20, bootstrap=10)
        found, scores = run(settings, world, tmp_path / score)
        assert (found["score"], found["tokens"], found["codes"]) == (score, tokens, codes)
        assert found["features"]
        mean = scores.groupby("feature")[score].mean()
        weight = np.ones(40)
        if score == "code_difference":
            coder = make_crosscoder(tmp_path / "again")
            weight = coder.decoder_rows("rl").norm(dim=-1).detach().double().numpy()
        best = (mean * weight)[lambda strength: strength > 0].nlargest(SETTINGS.localisation.top)
        assert found["features"] == best.index.tolist()
        np.testing.assert_allclose(found["strength"], best.to_numpy(), rtol=1e-6)


def test_no_item_that_measures_enters_any_score(world: dict[str, object], tmp_path: Path) -> None:
    found, scores = run(SETTINGS, world, tmp_path / "out")
    evaluations = world["evaluations"]
    assert isinstance(evaluations, dict)
    for path in evaluations.values():
        rows = pd.read_parquet(path / "items.parquet")
        measures = [
            item in found["measurement_items"][task] for task, item in zip(rows["task"], rows["item"], strict=True)
        ]
        assert 0 < sum(measures) < len(rows)
        rows.loc[measures, "response"] = "another answer"
        rows.loc[measures, "right"] = ~rows.loc[measures, "right"]
        rows.to_parquet(path / "items.parquet")
    again, scores_again = run(SETTINGS, world, tmp_path / "again")
    assert again == found
    pd.testing.assert_frame_equal(scores_again, scores)


def test_attribution_finds_what_matters_and_not_what_is_big() -> None:
    """The answer needs direction 0 only. Feature 0 adds it a little; 1 adds much of another; 2 takes it away; 3 adds it
    in base as much as in the arm; 4 is as active in both, but only the arm's decoder has it."""
    directions = torch.eye(8)
    arm_FD = torch.stack([directions[0], 3 * directions[1], -directions[0], directions[0], 0.5 * directions[0]])
    base_FD = torch.stack([*arm_FD[:4], directions[2]])
    coder = planted(["base", "rl"], torch.stack([base_FD, arm_FD]))
    items = {"base": np.array([0, 0, 0, 2.0, 1.0]), "arm": np.array([0.2, 5.0, 4.0, 2.0, 1.0])}
    seen = {
        task: {name: np.tile(codes_F, (6, 1)) for name, codes_F in items.items()}
        | {"gradient": np.tile(slope * np.eye(8)[0], (6, 1))}
        for task, slope in (("max", 2.0), ("cnt", 4.0))
    }
    labels = {task: np.arange(6) < 3 for task in seen}
    found = read_values(Rows.of(coder, "rl"), seen, labels, np.ones(5, dtype=bool))
    attribution, difference = found["attribution"].scores, found["code_difference"].scores
    assert attribution.ranked(None).tolist() == [4, 0]
    np.testing.assert_allclose(attribution.strength, [3 * 0.2, 0, -3 * 4, 0, 3 * 0.5], atol=1e-6)
    assert difference.ranked(None).tolist() == [1, 2, 0]


def test_without_an_item_the_list_is_empty_and_says_why(world: dict[str, object], tmp_path: Path) -> None:
    evaluations = world["evaluations"]
    assert isinstance(evaluations, dict)
    same = {"base": evaluations["base"], "arm": evaluations["base"]}
    localise(SETTINGS, **{**world, "evaluations": same}, out=tmp_path / "out")  # type: ignore[arg-type]
    found = json.loads((tmp_path / "out" / "localisation.json").read_text())
    assert found["features"] == []
    assert "no transfer task" in found["reason"]
