"""What an edited model has turned into, from divergences and answers that are known."""

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
    with pytest.raises(StudyError, match="cannot be loaded"):
        Mode("rlgen.data.miniature:nothing")
