"""Rewards: the default, and finding a user's own."""

from pathlib import Path

import pytest

from rlgen.errors import StudyError
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
        ("rlgen.posttrain.rewards:none", "has no `none`"),
        ("rlgen.posttrain.rewards:Completion", "is not a function"),
    ],
)
def test_a_reward_that_cannot_be_had_is_named(name: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_reward(name)
