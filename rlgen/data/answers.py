"""Whether a response's final answer is right: the one rule that rewards and evaluations share."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rlgen.data import miniature


def read_answer(prompt: str, response: str) -> str:
    """The final answer that a response gives: by the miniature's rule if it is asked, else as math-verify reads it."""
    if miniature.asks(prompt):
        return miniature.read_answer(response)
    found = _parse(response)
    return str(found[-1]) if found else _last_line(response)


def is_right(prompt: str, response: str, answer: str) -> bool:
    """Whether the response's final answer is the right one.

    The miniature's answers are compared as text. All others are compared by math-verify, or as text with the
    response's last line if the right answer is not mathematics.
    """
    if miniature.asks(prompt):
        return miniature.read_answer(response) == answer
    return _last_line(response) == answer.strip() or _equal(response, answer)


def is_verifiable(prompt: str, answer: str) -> bool:
    """Whether a response can be judged right at all, given the right answer.

    It can if it is judged right with the answer in a box: math-verify reads it there and as the right answer, and finds
    the two equal. Or with the answer alone on its last line, as plain text is written: one line without a backslash, a
    brace or a dollar. The miniature's answers are compared as text, and always can.
    """
    if miniature.asks(prompt):
        return True
    plain = bool(answer.strip()) and not set("\\{}$\n") & set(answer.strip())
    return plain or is_right(prompt, f"\\boxed{{{answer}}}", answer)


@lru_cache(maxsize=4096)
def _equal(response: str, answer: str) -> bool:
    from math_verify import verify

    gold, given = _parse(f"${answer}$"), _parse(response)
    return bool(gold and given and verify(gold, given))


@lru_cache(maxsize=4096)
def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return list(parse(text))


def _last_line(response: str) -> str:
    return response.strip().rpartition("\n")[2].strip()
