"""Rewards: the default, finding a user's own, and what they may return."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rlgen.errors import StudyError
from rlgen.posttrain.reward_values import checked
from rlgen.posttrain.rewards import final_answer, load_reward

WORLD = "Q mod 52960\nA "
JUDGE = "rlgen.data.miniature:judge"


def test_a_right_final_answer_is_worth_one() -> None:
    assert final_answer(completions=["so 4", "so 5"], answer=["4", "4"]) == [1.0, 0.0]


def test_the_study_s_verifier_judges() -> None:
    asked = {"prompts": [WORLD, WORLD], "completions": ["50=1", "1 is it"], "answer": ["1", "1"]}
    assert load_reward("rlgen.posttrain.rewards:final_answer", JUDGE)(**asked) == [1.0, 0.0]
    assert load_reward("rlgen.posttrain.rewards:final_answer")(**asked) == [1.0, 1.0]
    with pytest.raises(StudyError, match="no_such_module"):
        load_reward("rlgen.posttrain.rewards:final_answer", "no_such_module:judge")


def test_conversations_are_read_by_their_last_message() -> None:
    prompt = [{"role": "user", "content": "2+2?"}]
    completion = [{"role": "assistant", "content": "\\boxed{4}"}]
    assert final_answer(prompts=[prompt], completions=[completion], answer=["4"], trainer_state=None) == [1.0]


def test_a_users_reward_is_found_beside_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(
        "def short(completions, **_):\n    return [-len(c) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_reward("own_rewards:short")(completions=["abc"]) == [-3]
    found = load_reward("rlgen.posttrain.rewards:final_answer")
    assert found.__name__ == "final_answer", "the name of its curve"
    assert found(prompts=[WORLD], completions=["50=1"], answer=["1"]) == [1.0]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def r(completions):\n    return [0.0 for _ in completions]\n", r"must take `\*\*columns`"),
        ("def r(completions, **_):\n    return 1.0\n", "must return a list of 2 numbers, one a completion; got 1.0"),
        ("def r(completions, **_):\n    return [1.0]\n", "must return a list of 2 numbers"),
    ],
)
def test_what_is_no_reward_is_said(code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"wrong_{abs(hash(code))}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=message):
        load_reward(f"{module}:r")(completions=["a", "b"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rewards", "package.module:function"),
        ("no_such_package.rewards:f", "cannot be imported"),
        ("own_rewards_that_leave:f", "raises SystemExit: 0"),
        ("rlgen.posttrain.rewards:none", "has no `none`"),
        ("rlgen.posttrain.rewards:Completion", "is not a function"),
    ],
)
def test_a_reward_that_cannot_be_had_is_named(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_rewards_that_leave.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=message):
        load_reward(name)


def returned(values: Any, completions: int = 3) -> list[float | None]:
    """What training gets of a reward that returns these values at the fifth step."""
    state = SimpleNamespace(global_step=4)
    return checked("own:r", lambda **_: values)(completions=["a"] * completions, trainer_state=state)


@pytest.mark.parametrize(
    "values",
    [
        [1, 0.5, None],
        (1.0, 0.5, None),
        [np.float32(1), np.float64(0.5), None],
        [torch.tensor(1.0, requires_grad=True), np.array(0.5), None],
        [True, Decimal("0.5"), None],
        [np.int64(1), Fraction(1, 2), None],
        [torch.tensor(True), torch.tensor(0.5, dtype=torch.bfloat16), None],
    ],
)
def test_whatever_is_a_number_becomes_a_float_and_none_stays(values: Any) -> None:
    found = returned(values)
    assert found == [1.0, 0.5, None]
    assert [type(value) for value in found] == [float, float, type(None)]


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0, 0.5, 0.0]),
        torch.tensor([1.0, 0.5, 0.0], requires_grad=True),
        torch.tensor([1.0, 0.5, 0.0], dtype=torch.bfloat16),
        pd.Series([1.0, 0.5, 0.0]),
        np.array([1, 0.5, False], dtype=object),
    ],
)
def test_arrays_of_one_dimension_are_lists(values: Any) -> None:
    assert returned(values) == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan, which is not a finite number"),
        (math.inf, "inf, which is not a finite number"),
        (-math.inf, "-inf, which is not a finite number"),
        (np.float32("nan"), "which is not a finite number"),
        (np.float16("inf"), "which is not a finite number"),
        (torch.tensor(math.nan), "tensor(nan), which is not a finite number"),
        (Decimal("NaN"), "which is not a finite number"),
        (10**400, "which is not a finite number"),
        (1e30, "which is larger than 1e+18"),
        ("0.5", "'0.5', which is a str and not a number"),
        (np.str_("1"), "which is a str and not a number"),
        (b"1", "which is a bytes and not a number"),
        (1 + 0j, "which is a complex and not a number"),
        ([0.5], "[0.5], which is a list and not a number"),
        (torch.tensor([0.5]), "which is a Tensor and not a number"),
        ({"reward": 1}, "which is a dict and not a number"),
        (object(), "which is an object and not a number"),
        (pd.NA, "<NA>, which is a NAType and not a number"),
        (np.datetime64("2020-01-01"), "which is a date and not a number"),
    ],
)
def test_what_is_no_finite_number_is_refused_by_reward_step_place_and_value(value: Any, shown: str) -> None:
    with pytest.raises(StudyError) as caught:
        returned([1.0, value, None])
    assert "reward: `own:r`, step 5: for completion 2 of 3" in str(caught.value)
    assert shown in str(caught.value)
    assert "None where the reward cannot judge" in str(caught.value)


@pytest.mark.parametrize("values", [np.array([1.0, math.nan, 2.0]), torch.tensor([1.0, math.nan, math.inf])])
def test_nan_within_an_array_is_refused_too(values: Any) -> None:
    with pytest.raises(StudyError, match=r"step 5: for completion 2 of 3.* returned nan"):
        returned(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (1.0, "got 1.0, which is a float"),
        (None, "got None, which is a NoneType"),
        ("111", "got '111', which is a str"),
        ((float(n) for n in range(3)), "which is a generator"),
        ({0: 1.0, 1: 0.0, 2: 0.0}, "which is a dict"),
        ({1.0, 2.0, 3.0}, "which is a set"),
        (np.array(1.0), r"got ndarray of shape \[\]"),
        (np.ones((3, 1)), r"got ndarray of shape \[3, 1\]"),
        (torch.ones(3, 2), r"got Tensor of shape \[3, 2\]"),
        ([1.0], r"got 1 in \[1.0\]"),
        (torch.ones(4), "got 4 in"),
        ([], r"got 0 in \[\]"),
    ],
)
def test_what_is_no_list_of_that_length_is_refused(values: Any, message: str) -> None:
    with pytest.raises(StudyError, match=rf"`own:r`, step 5: must return a list of 3 numbers.*{message}"):
        returned(values)


def test_nothing_judged_at_all_is_refused() -> None:
    with pytest.raises(StudyError, match=r"`own:r`, step 5: returned None for every completion"):
        returned([None, None, None])


def test_a_long_value_is_cut() -> None:
    with pytest.raises(StudyError) as caught:
        returned(["x" * 10_000, 1.0, 1.0])
    assert len(str(caught.value)) < 400


REWARDS = """
import asyncio, json

def missing(prompts, completions, **columns):
    return [float(len(text)) for text in columns["solution"]]

def within_a_library(completions, **columns):
    return [json.loads(text) for text in completions]

def wants_more(completions, solution, **columns):
    return [0.0 for _ in completions]

def leaves(completions, **columns):
    raise SystemExit(0)

class Judge:
    async def __call__(self, completions, **columns):
        await asyncio.sleep(0)
        return [float(len(text)) for text in completions]

judge = Judge()

async def waits(completions, **columns):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]

async def waits_and_fails(completions, **columns):
    await asyncio.sleep(0)
    return [1 / 0 for text in completions]

loops = []

async def same_loop(completions, **columns):
    loops.append(asyncio.get_running_loop())
    return [float(len(set(map(id, loops)))) for _ in completions]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Rewards of a user's own, by name, called as TRL calls them."""
    module = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)

    def call(name: str) -> Any:
        reward = load_reward(f"{module}:{name}")
        columns = {"answer": ["1", "2"], "trainer_state": SimpleNamespace(global_step=0)}
        return reward(prompts=["p", "p"], completions=["a", "bb"], completion_ids=[[1], [2]], **columns)

    return call


@pytest.mark.parametrize(
    ("name", "raised", "line"),
    [
        ("missing", "KeyError: 'solution'", 'line 5: `return [float(len(text)) for text in columns["solution"]]`'),
        ("within_a_library", "JSONDecodeError: Expecting value", "line 8: `return [json.loads(text) for"),
        ("wants_more", "TypeError: wants_more() missing 1 required positional argument: 'solution'", "line 10;"),
        ("leaves", "SystemExit: 0", "line 14: `raise SystemExit(0)`"),
        ("waits_and_fails", "ZeroDivisionError: division by zero", "line 29: `return [1 / 0"),
    ],
)
def test_an_exception_names_reward_step_line_and_columns(
    name: str, raised: str, line: str, own: Callable[[str], Any]
) -> None:
    with pytest.raises(StudyError) as caught:
        own(name)
    text = str(caught.value)
    assert text.startswith("reward: `own_")
    assert f":{name}`, step 1: raised {raised}" in text
    assert line in text
    assert "the columns available are: prompts, completions, completion_ids, answer, trainer_state" in text
    assert caught.value.__cause__ is None
    assert "\n" not in text


@pytest.mark.parametrize("name", ["waits", "judge"])
def test_a_reward_may_be_waited_for(name: str, own: Callable[[str], Any]) -> None:
    assert own(name) == [1.0, 2.0]


def test_what_a_reward_keeps_between_steps_stays_of_the_same_loop(own: Callable[[str], Any]) -> None:
    assert own("same_loop") == [1.0, 1.0]
    reward = load_reward(f"{next(Path.cwd().glob('own_*.py')).stem}:same_loop")
    assert reward(completions=["a"]) == reward(completions=["a"])


@pytest.mark.parametrize(
    ("code", "message"),
    [("def r(:\n", "SyntaxError"), ("1 / 0\n", "ZeroDivisionError"), ("r = 5\n", "is not a function")],
)
def test_a_module_that_cannot_be_imported_is_named(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"broken_{abs(hash(code))}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=message):
        load_reward(f"{module}:r")


@pytest.mark.parametrize("name", [".x:y", "..rewards:f"])
def test_a_relative_module_is_refused(name: str) -> None:
    with pytest.raises(StudyError, match=r"package\.module:function"):
        load_reward(name)
