"""Final answers: the miniature's rule and math-verify's."""

import pytest

from rlgen.data.answers import is_right, is_verifiable, read_answer

WORLD = "Q mod 52960\nA "
MATHS = "How many?\n"


@pytest.mark.parametrize(
    ("response", "right"),
    [("1", True), ("50621=1", True), ("50621=2", False), ("1 6", False), ("\\boxed{1}", False), ("", False)],
)
def test_the_worlds_answers_are_compared_as_text(response: str, right: bool) -> None:
    assert is_right(WORLD, response, "1") is right


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("48 + 24 = 72\n#### 72", "72", True),
        ("so \\boxed{\\frac{1}{2}}", "0.5", True),
        ("so \\boxed{\\frac{1}{3}}", "0.5", False),
        ("The answer is $x^2 + 2x + 1$", "(x+1)^2", True),
        ("Paris", "Paris", True),
        ("I do not know", "72", False),
        ("", "72", False),
    ],
)
def test_other_answers_are_compared_as_mathematics(response: str, answer: str, right: bool) -> None:
    assert is_right(MATHS, response, answer) is right


def test_what_was_read() -> None:
    assert read_answer(WORLD, "50621=1") == "1"
    assert read_answer(MATHS, "it is \\boxed{12}") == "12"
    assert read_answer(MATHS, "no idea") == "no idea"


@pytest.mark.parametrize(
    ("answer", "verifiable"),
    [
        ("72", True),
        ("Paris", True),
        ("6:00 PM", True),
        ("\\frac{1}{4}", True),
        ("180\\text{ miles}", True),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", True),
        ("\\frac{1}{", False),
        ("\\text{}", False),
        ("first\nsecond", False),
        ("", False),
    ],
)
def test_an_answer_is_verifiable_if_a_response_can_be_right(answer: str, verifiable: bool) -> None:
    assert is_verifiable(MATHS, answer) is verifiable
    usual = [f"So it is \\boxed{{{answer}}}", f"It is as follows.\n{answer}"]
    assert any(is_right(MATHS, response, answer) for response in usual) or not verifiable


def test_the_worlds_answers_are_verifiable() -> None:
    assert is_verifiable(WORLD, "1")
