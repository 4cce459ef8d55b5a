"""The miniature world: known answers, and properties of its documents and tokenizer."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlgen.data import miniature
from rlgen.data.miniature import TASKS, build_tokenizer, document, draw, draw_distinct, mixture, read_answer
from rlgen.verifiers import load_verifier

KNOWN = {
    "mod": lambda digits: sum(map(int, digits)) % 7,
    "max": lambda digits: max(map(int, digits)),
    "min": lambda digits: min(map(int, digits)),
    "par": lambda digits: sum(map(int, digits)) % 2,
    "cnt": lambda letters: sum(letter in "abcd" for letter in letters),
}


@pytest.mark.parametrize("name", KNOWN)
def test_answers_are_those_of_the_task(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        item = draw(TASKS[name], rng)
        assert item.answer == str(KNOWN[name](item.prompt.split()[2]))


def test_a_run_starts_anew_after_another_letter() -> None:
    item = TASKS["run"].item("abhcd")
    assert (item.values, item.answer) == ("12012", "2")


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_is_one_character_a_value_and_large_enough(task: miniature.WorldTask) -> None:
    rng = np.random.default_rng(1)
    items = draw_distinct(task, 800, rng, "evaluation")
    assert all(len(item.values) == task.length and set(item.values) <= set(task.answers) for item in items)
    assert len({item.prompt for item in items}) == 800
    train = {draw(task, rng, "train").prompt for _ in range(2000)}
    assert not train & {item.prompt for item in items}


def test_too_many_items_are_refused() -> None:
    small = miniature.WorldTask("mod", "01", 3, 0, lambda value, c: value, "0")
    with pytest.raises(ValueError, match="has only"):
        draw_distinct(small, 9, np.random.default_rng(0), "train")


@given(st.integers(0, 2**31), st.sampled_from(sorted(TASKS)))
def test_thinking_is_right_and_guessing_as_often_as_asked(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    item = draw(TASKS[name], rng)
    thought = document(item, "think", 0.0, rng)
    assert thought.startswith(item.prompt)
    assert read_answer(thought.removeprefix(item.prompt)) == item.answer
    assert document(item, "guess", 1.0, rng) == f"{item.prompt}={item.answer}"
    wrong = document(item, "guess", 0.0, rng).removeprefix(f"{item.prompt}=")
    assert wrong != item.answer
    assert wrong in TASKS[name].answers
    assert read_answer(miniature.teacher_solution(item)) == item.answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [("5", "5"), ("0123=3", "3"), ("1=2=4\n=7", "4"), (" 12 ", "12"), ("", ""), ("so it is =", "")],
)
def test_reading_an_answer(response: str, answer: str) -> None:
    assert read_answer(response) == answer


def test_the_mixture_follows_its_rates_and_its_seed() -> None:
    texts = list(islice(mixture(np.random.default_rng(3), 0.3, 0.3), 6000))
    assert texts[:100] == list(islice(mixture(np.random.default_rng(3), 0.3, 0.3), 100))
    thinks = np.array([not text.rpartition(" ")[2].startswith("=") for text in texts])
    assert thinks.mean() == pytest.approx(0.3, abs=0.03)
    right = [
        TASKS[name].item(rest).answer == answer
        for text in texts
        if text.rpartition(" ")[2].startswith("=")
        for name, rest, answer in [(text.split()[1], text.split()[2], text[-1])]
    ]
    assert np.mean(right) == pytest.approx(0.3, abs=0.03)
    names, counts = np.unique([text.split()[1] for text in texts], return_counts=True)
    assert set(names) == set(TASKS)
    assert counts.min() > 0.8 * counts.max()


def test_every_document_survives_the_tokenizer() -> None:
    tokenizer = build_tokenizer()
    for text in islice(mixture(np.random.default_rng(4), 0.5, 0.3), 200):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert len(ids) == len(text) + 1
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    teacher = miniature.teacher_solution(TASKS["mod"].item("12345"))
    assert tokenizer.decode(tokenizer(teacher)["input_ids"][1:]) == teacher


@pytest.mark.parametrize(
    ("response", "right"),
    [("1", True), ("50621=1", True), ("50621=2", False), ("1 6", False), ("\\boxed{1}", False), ("", False)],
)
def test_the_worlds_answers_are_compared_as_text(response: str, right: bool) -> None:
    found = load_verifier("rlgen.data.miniature:judge")(response, "1")
    assert (found.extracted, found.right) == (read_answer(response), right)
