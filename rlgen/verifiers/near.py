"""Near misses of a gold: answers that differ from it in one place, and must be judged wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlgen.verifiers.kinds import Choice, Formula, InBase, Kind, Many, Parts, Range, Text, read
from rlgen.verifiers.latex import tidy
from rlgen.verifiers.numbers import Number, plain_number

_KEPT_DIGITS = 12
_COMMANDS = re.compile(r"\\[A-Za-z]+|\\text ?\{[^{}]*\}")


def near_misses(gold: str) -> list[str]:
    """Return wrong answers that are near a gold, each once.

    Words have their letters permuted and one left out, numbers a digit changed and their sign flipped, numbers in a
    base get another base, ranges are subtracted, and the items of a tuple are swapped.
    """
    text = tidy(gold)
    kind = read(gold)
    return [miss for miss in dict.fromkeys(_misses(kind, text)) if miss != text and not _equal(kind, miss)]


def _equal(kind: Kind, miss: str) -> bool:
    """Whether a miss is none, as another denominator of zero."""
    number = plain_number(miss)
    return isinstance(kind, Number) and number is not None and number.value == kind.value


def _misses(kind: Kind, text: str) -> Iterator[str]:
    match kind:
        case Text(value):
            yield from _misspelt(value)
        case Choice(letter, _):
            yield chr((ord(letter.upper()) - ord("A") + 1) % 26 + ord("A"))
        case Range(low, high):
            yield str(low.value - high.value)
            yield str(high.value - low.value)
            yield from _digits(text)
        case InBase(digits, base):
            yield f"{digits}_{{{base + 1}}}"
            yield f"{digits}_{{{base - 1}}}"
            yield from (f"{other}_{{{base}}}" for other in _digits(digits))
        case Parts():
            yield from _digits(text)
        case Number(value=value):
            yield from _digits(text)
            if value:
                yield text[1:].strip() if text.startswith("-") else f"-{text}"
        case Many(items, opening, closing):
            yield from _digits(text)
            if kind.ordered and len(set(items)) > 1 and opening not in ("matrix",):
                yield f"{opening}{', '.join(items[::-1])}{closing}" if list(items) != list(items[::-1]) else text
        case Formula():
            yield from _digits(text)
            if not re.search(r"[=<>]|\\(?:leq|geq|neq|emptyset|mathbb)", text):
                yield f"-({text})"


def _misspelt(word: str) -> Iterator[str]:
    """Words with two different neighbouring letters swapped, the letters reversed, and the last letter left out."""
    for place in range(len(word) - 1):
        first, second = word[place], word[place + 1]
        if first.isalpha() and second.isalpha() and first.casefold() != second.casefold():
            yield word[:place] + second + first + word[place + 2 :]
            break
    if word.casefold() != word[::-1].casefold():
        yield word[::-1]
    if len(word) > 2:
        yield word[:-1]


def _digits(text: str) -> Iterator[str]:
    """The text with its first digit changed, and with its last one, of those that count."""
    hidden = _COMMANDS.sub(lambda found: " " * len(found[0]), text)
    places = [found.start() for found in re.finditer(r"[0-9]", hidden)]
    if re.fullmatch(r"-?\d*\.\d+", text):
        first = next((i for i, place in enumerate(places) if text[place] != "0"), 0)
        places = places[first : first + _KEPT_DIGITS - 1]
    for place in dict.fromkeys([*places[:1], *places[-1:]]):
        yield f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}"
