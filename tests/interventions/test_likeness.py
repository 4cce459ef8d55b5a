"""What an edited model has turned into, from divergences and answers that are known."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rlgen.errors import StudyError
from rlgen.evaluation.mode import Mode
from rlgen.interventions.decisions import Decisions
from rlgen.interventions.likeness import likeness, turned

ITEMS = 30


def make_items(effect: float, matched: tuple[float, ...] = (0.5,) * 19) -> pd.DataFrame:
    """The unedited base is 0.5 nats (and the other way round) from the arm; a condition is `kl_arm` nats."""
    kl = {("baseline", 0): 0.5, ("donor", 0): 0.0, ("effect", 0): effect}
    kl |= {("matched_random", draw): value for draw, value in enumerate(matched)}
    rows: list[dict[str, Any]] = [
        {"condition": name, "draw": draw, "task": "a", "item": f"{i:02d}", "sample": 0}
        | {"kl_arm": value, "kl_base": 0.5 - value, "answer": "x" if i % 2 or name == "donor" else name[0]}
        | {"mode": name == "donor", "length": 3, "right": True}
        for (name, draw), value in kl.items()
        for i in range(ITEMS)
    ]
    return pd.DataFrame(rows).astype({"mode": "boolean"})


@pytest.mark.parametrize(("kl", "gone"), [(0.0, 1.0), (0.5, 0.0), (0.25, 0.5), (1.0, -1.0)])
def test_how_far_a_model_has_gone_towards_the_other(kl: float, gone: float) -> None:
    found = turned(make_items(kl), "amplify", ["a"], 20, np.random.default_rng(0))
    assert found is not None
    assert found["statistic"] == pytest.approx(gone)
    assert (found["low"], found["high"]) == pytest.approx((gone, gone))
    assert found["towards"] == "arm"
    assert found["p"] == pytest.approx(1 / 20 if gone > 0 else 1.0)
    assert turned(make_items(kl), "amplify", ["b"], 20, np.random.default_rng(0)) is None


def test_an_edit_of_the_arm_goes_towards_base() -> None:
    items = make_items(0.5).rename(columns={"kl_arm": "kl_base", "kl_base": "kl_arm"})
    found = turned(items, "ablate", ["a"], 20, np.random.default_rng(0))
    assert found is not None
    assert found["towards"] == "base"


def test_likeness_counts_equal_answers_and_modes() -> None:
    found = likeness(make_items(0.25), "amplify", {"transfer": ["a"], "unseen": []})
    assert found["unseen"] == {}
    assert found["transfer"]["baseline"]["like_base"] == 1
    assert found["transfer"]["effect"]["like_base"] == pytest.approx(0.5)
    assert found["transfer"]["donor"]["mode"] == 1
    assert found["transfer"]["effect"]["kl_arm"] == pytest.approx(0.25)


def test_without_a_function_there_is_no_mode() -> None:
    items = make_items(0.25).assign(mode=pd.array([None] * len(make_items(0.25)), dtype="boolean"))
    assert likeness(items, "amplify", {"transfer": ["a"]})["transfer"]["effect"]["mode"] is None


def test_divergences_are_kullback_and_leiblers() -> None:
    base, arm = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    decisions = Decisions()
    for name, logprobs_BV in (("arm", arm), ("base", base)):
        decisions.listen([b"p"], logprobs_BV)
        decisions.remember(name)
    assert decisions.of_reference("base", [b"p"]).iloc[0].tolist() == pytest.approx([0.0, np.log(2)])
    decisions.listen([b"p"], base)
    assert decisions.divergences([b"p", b"p"])["kl_arm"].tolist() == pytest.approx([np.log(2)] * 2)
    assert decisions.divergences([b"p"]).isna().all(axis=None)


def test_a_mode_is_a_function_of_prompt_and_response() -> None:
    frame = pd.DataFrame({"prompt": ["p", "p"], "response": ["=3", "123=3"]})
    assert Mode("rlgen.data.miniature:thinks").of(frame).tolist() == [False, True]
    assert Mode(None).of(frame).isna().all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rlgen.data.miniature:nothing", "cannot be imported"),
        ("rlgen.data.nothing:thinks", "cannot be imported"),
        ("rlgen.data.miniature", "is not of the form package.module:function"),
        (":thinks", "is not of the form package.module:function"),
        (".miniature:thinks", "is not of the form package.module:function"),
        ("rlgen.data.miniature:__name__", "is not a function"),
    ],
)
def test_a_mode_that_is_no_function_is_refused_in_words(name: str, reason: str) -> None:
    with pytest.raises(StudyError, match=reason) as caught:
        Mode(name)
    assert f"interventions.mode: `{name}`" in str(caught.value)


@pytest.mark.parametrize("source", ["1 / 0", "def thinks(:", "def thinks(prompt, response):\n    return 1 / 0"])
def test_a_mode_that_raises_is_named(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "raising_mode", raising=False)
    Path("raising_mode.py").write_text(source + "\n")
    with pytest.raises(StudyError, match=r"interventions\.mode: `raising_mode:thinks` .*Error"):
        Mode("raising_mode:thinks").of(pd.DataFrame({"prompt": ["p"], "response": ["r"]}))


def test_a_mode_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_mode.py").write_text("def longer(prompt, response):\n    return len(response) > len(prompt)\n")
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"prompt": ["p", "p"], "response": ["a", "ab"]}, index=[5, 7])
    found = Mode("own_mode:longer").of(frame)
    assert found.to_dict() == {5: False, 7: True}
    assert found.dtype == "boolean"


def test_of_several_tasks_divergences_are_averaged_before_their_ratio_is_taken() -> None:
    other = make_items(0.3).assign(task="b")
    other["kl_arm"] *= 2
    found = turned(pd.concat([make_items(0.0), other]), "amplify", ["a", "b"], 20, np.random.default_rng(0))
    assert found is not None
    assert found["kl_before"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["kl_after"] == pytest.approx((0.0 + 0.6) / 2)
    assert found["statistic"] == pytest.approx(1 - 0.3 / 0.75)
    assert found["n"] == 2 * ITEMS


def test_the_interval_is_over_items_and_p_over_matched_sets() -> None:
    items = make_items(0.0, matched=(0.0, 0.5, 0.25, 0.5))
    changed = (items["condition"] == "effect") & (items["item"].astype(int) < ITEMS // 2)
    items.loc[changed, "kl_arm"] = 0.5  # half of the items have become the arm's, half are as they were
    found = turned(items, "amplify", ["a"], 4000, np.random.default_rng(0))
    assert found is not None
    assert found["statistic"] == pytest.approx(0.5)
    half_width = 1.96 * np.sqrt(0.25 / ITEMS)
    assert (found["low"], found["high"]) == pytest.approx((0.5 - half_width, 0.5 + half_width), abs=0.04)
    assert found["p"] == pytest.approx((1 + 2) / (1 + 4)), "two of four come as near"
    assert found["matched_random"]["mean"] == pytest.approx(np.mean([1, 0, 0.5, 0]))


def test_items_without_a_divergence_are_left_out() -> None:
    """Of a prompt that was cut to the model's length nothing is known at its end."""
    items = make_items(0.25)
    known = turned(items[items["item"] >= "03"], "amplify", ["a"], 50, np.random.default_rng(0))
    items.loc[items["item"] < "03", ["kl_base", "kl_arm"]] = np.nan
    assert turned(items, "amplify", ["a"], 50, np.random.default_rng(0)) == known
    items["kl_arm"] = np.nan
    assert turned(items, "amplify", ["a"], 50, np.random.default_rng(0)) is None


def test_models_that_do_not_differ_cannot_be_told_apart() -> None:
    items = make_items(0.0).assign(kl_arm=0.0)
    assert turned(items, "amplify", ["a"], 50, np.random.default_rng(0)) is None


def test_divergences_are_told_apart_by_prompt_and_never_below_nothing() -> None:
    base, arm = torch.log_softmax(torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)), dim=-1)
    keys = [b"p", b"q", b"r"]
    decisions = Decisions()
    for name, logprobs_BV in (("base", base), ("arm", arm)):
        decisions.listen(keys, logprobs_BV)
        decisions.remember(name)
    decisions.listen(keys[:2], arm[:2])
    found = decisions.divergences([b"q", b"r", b"p"])
    wanted_B = (arm.exp() * (arm - base)).sum(-1)
    assert found["kl_base"][[0, 2]].tolist() == pytest.approx([float(wanted_B[1]), float(wanted_B[0])], rel=1e-4)
    assert found["kl_arm"][[0, 2]].tolist() == [0.0, 0.0]
    assert found.loc[1].isna().all(), "nothing was heard of it"
    decisions.clear()
    decisions.listen(keys, arm)
    assert decisions.divergences(keys).isna().all(axis=None), "the references are forgotten"
