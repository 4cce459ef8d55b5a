"""What counts as an evaluation item in other words."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlgen.data.overlap import GRAM, Evaluated, Item

SUM = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips?"
SHORT = "How many degrees are in a right angle?"


def found(question: str, problem: str) -> bool:
    return (
        Evaluated([Item("other", "0", "Which of these is a mammal?"), Item("t", "1", question)]).find(problem)
        is not None
    )


@pytest.mark.parametrize(
    ("question", "problem", "overlaps"),
    [
        ("What is 2 + 2?", "  what IS\n2+2", True),
        ("What is 2 + 2?", "What is 2 - 2?", False),
        ("What is $2/2$?", "What is $2*2$?", False),
        ("A well-known sum?", "A well known sum", True),
        ("Solve: sum ≤ 5", "Solve: sum ≥ 5", False),
        ("Solve: sum ≤ 5", "solve sum≤5", True),
        ("Is a ≠ 5?", "Is a = 5?", False),
        ("What is 3 ± 2?", "What is 3 ÷ 2?", False),
        ("What is 3 \u00d7 2?", "What is 3 · 2?", False),
        ("What is √4?", "What is 4?", False),
        ("What is 3!?", "What is 3?", False),
        ("What is (n+1)!?", "What is (n+1)?", False),
        ("What is |x|?", "What is x?", False),
        (r"What is 30\% of 9?", "What is 30 of 9?", False),
        ("What is 0.25 of 8?", "What is 0 25 of 8?", False),
        ("What is 0.25 of 8?", "What is 025 of 8?", False),
        ("What is .25 of 8?", "What is 25 of 8?", False),
        ("Count to 3. 4 follows!", "Count to 3: 4 follows.", True),
        (r"What is 10,\!000?", "What is 10,000?", True),
        ("Spoon", "A spoon weighs 12 grams. How much do three weigh?", False),
        (SHORT, f"Think hard. {SHORT} Say why.", True),
        (SHORT, "How many degrees are in a right angled figure?", False),
        (f"Think hard. {SHORT} Say why.", SHORT, True),
        ("How many in it?", "Tell me: how many in it? I cannot say.", False),
        (SUM, SUM.replace("48", "96").replace("April", "June"), True),
        (SUM, SUM.replace("half", "twice").replace("April", "June"), False),
        (SUM, "How many clips did she sell?", False),
        (
            "[asy] draw((0,0)--(1,0)--(1,1)--cycle); [/asy] Area?",
            "[asy]draw((0,0)--(1,0)--(1,1)--cycle);[/asy] Height?",
            False,
        ),
    ],
)
def test_known_pairs(question: str, problem: str, overlaps: bool) -> None:
    assert found(question, problem) is overlaps


@pytest.mark.parametrize(
    ("problem", "item", "how"),
    [
        (SUM.upper(), "a", "equal"),
        (f"Say: {SHORT}", "b", "contains `how many degrees are in a right angle`"),
        ("Degrees are in a right angle: choose the best", "c", "is contained"),
        (SUM.replace("May", "June"), "a", "shares `natalia sold clips to 48 of her friends in april and then she`"),
    ],
)
def test_the_item_is_named_with_what_is_shared(problem: str, item: str, how: str) -> None:
    items = [Item("gsm8k", "a", SUM), Item("arc", "b", SHORT), Item("arc", "c", f"{SHORT} Choose the best one.")]
    overlap = Evaluated(items).find(problem)
    assert overlap is not None
    assert (overlap.item.id, overlap.how) == (item, how)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=20, max_size=40), st.integers(0, 7), st.data())
def test_a_run_of_words_is_found_wherever_it_stands(question: list[str], start: int, data: st.DataObject) -> None:
    run = question[start : start + GRAM]
    before, after = (data.draw(st.lists(st.sampled_from("xyz"), max_size=20)) for _ in range(2))
    assert found(" ".join(question), " ".join([*before, *run, *after]))
    assert not found(" ".join(question), " ".join([*before, *run[:-1], "x", *run[:-1]]))


def test_runs_of_words_have_no_operators_and_decimals_in_two() -> None:
    """What two texts share by copying is their words: `0.5 %` in the middle breaks no run."""
    assert found(SUM, SUM.replace("clips to 48 of", "clips | to 48% of").replace("May", "June"))
    decimal = SUM.replace("48", "4.8").replace("May", "June")
    assert found(SUM.replace("48", "4 8"), decimal)


def test_real_training_problems_against_real_evaluation_items(real_data: Path) -> None:
    """MATH500 shares no problem with this part of MATH's training set, and six with AIME 1983 to 2023."""

    def rows(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (real_data / f"{name}.jsonl").open(encoding="utf-8")]

    evaluated = Evaluated(Item("math500", row["id"], row["problem"]) for row in rows("math500_test"))
    equal, shared = {}, {}
    for name in ("math_train", "gsm8k_train", "aime_1983_2023_train"):
        overlaps = [evaluated.find(row["problem"]) for row in rows(name)]
        equal[name] = sum(overlap is not None and overlap.how == "equal" for overlap in overlaps)
        shared[name] = sum(overlap is not None for overlap in overlaps) / len(overlaps)
    assert equal == {"math_train": 0, "gsm8k_train": 0, "aime_1983_2023_train": 6}
    assert shared["gsm8k_train"] == 0
    assert shared["math_train"] < 0.05
    own = [evaluated.find(row["problem"]) for row in rows("math500_test")]
    assert all(overlap is not None and overlap.how == "equal" for overlap in own)
