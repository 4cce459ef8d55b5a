"""Whether a problem is an evaluation item in other words: exact matches, and long runs of the same words."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

GRAM = 13
"""Words in a row that two texts share by copying (Brown et al. 2020, appendix C)."""
_SHORTEST = 8
"""Words from which on a text inside another one is no chance: shorter questions (`shirt`) count only if equal."""
_WORD = re.compile(
    r"\d+\.\d+|(?<!\w)\.\d+|[^\W_]+|[+*/^=<>≤≥≠±\u00d7÷·√|%]"
    r"|(?<![a-z])-|-(?![a-z])"  # minus, not a hyphen
    r"|(?<!\\)(?<![^\W\d_]{2})!"  # factorial, not an exclamation, nor the space that LaTeX writes as \!
)
_PROSE = re.compile(r"[^\W_]+")
_FIGURE = re.compile(r"\[asy\].*?(\[/asy\]|$)", re.DOTALL)
"""A drawing in Asymptote, whose commands many figures share."""


def words(text: str) -> list[str]:
    """A text's words: case-folded, white space and punctuation left out.

    A word is a run of letters and digits, a decimal number, or an operator: without those, `2 + 3` and `2 / 3` were
    the same, and so were `0.25` and `0 25`.
    """
    return _WORD.findall(text.casefold())


class Item(NamedTuple):
    """An evaluation item's question."""

    task: str
    id: str
    question: str


class Overlap(NamedTuple):
    """An evaluation item that a problem repeats, and how."""

    item: Item
    how: str


class Evaluated:
    """The questions of all evaluation items, to be compared with many problems."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = list(items)
        self._equal: dict[str, int] = {}
        self._runs: dict[str, int] = {}
        """By `GRAM` words in a row, or all words of a question that has fewer: the item that has them."""
        self._sizes: set[int] = set()
        texts, self._starts, length = [], list[int](), 0
        for index, item in enumerate(self._items):
            self._equal.setdefault(" ".join(words(item.question)), index)
            found = _prose(item.question)
            if len(found) >= _SHORTEST:
                self._sizes.add(size := min(GRAM, len(found)))
                for run in _runs(found, size):
                    self._runs.setdefault(run, index)
            texts.append(f" {' '.join(found)} ")
            self._starts.append(length)
            length += len(texts[-1]) + 1
        self._text = "\n".join(texts)

    def find(self, problem: str) -> Overlap | None:
        """An item that a problem's text equals, contains, is contained in, or shares `GRAM` words in a row with.

        A text is contained as whole words, and from `_SHORTEST` of them on. Operators and figures are not counted.
        """
        if (index := self._equal.get(" ".join(words(problem)))) is not None:
            return Overlap(self._items[index], "equal")
        found = _prose(problem)
        for size in sorted(self._sizes):
            for run in _runs(found, size):
                if (index := self._runs.get(run)) is not None:
                    return Overlap(self._items[index], f"{'shares' if size == GRAM else 'contains'} `{run}`")
        if _SHORTEST <= len(found) < GRAM and (place := self._text.find(f" {' '.join(found)} ")) >= 0:
            return Overlap(self._items[bisect_right(self._starts, place) - 1], "is contained")
        return None


def _prose(text: str) -> list[str]:
    """A text's runs of letters and digits: its words without operators and figures, a decimal as two."""
    return _PROSE.findall(_FIGURE.sub(" ", text).casefold())


def _runs(found: list[str], size: int) -> Iterator[str]:
    return (" ".join(found[start : start + size]) for start in range(len(found) - size + 1))
