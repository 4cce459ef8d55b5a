"""Whether two answers are the same, each according to what kind of answer the gold is (docs/answers.md)."""

from __future__ import annotations

import re

from rlgen.verifiers.formulas import same_formula
from rlgen.verifiers.kinds import (
    Choice,
    Formula,
    InBase,
    Kind,
    Many,
    Parts,
    Range,
    Text,
    as_fraction,
    interval,
    read,
)
from rlgen.verifiers.latex import balanced, tidy
from rlgen.verifiers.numbers import Number, is_long, plain_number, same_number, shortened

_DEEPEST = 20
_LONGEST_FORMULA, _DEEPEST_FORMULA = 2_000, 40
"""Characters and nested brackets of a formula that is computed; others are compared as they are spelt."""
_NAMED = re.compile(r"([A-Za-z](?:_(?:\w|\{\w+\}))?|\\[a-z]+|[A-Za-z]{1,2}|[a-z]\([a-z]\)) ?= ?([^=<>]+)", re.DOTALL)
_LABEL = re.compile(
    r"(?:\\text ?\{ ?)?(?:\( ?([A-Za-z]) ?\)(?: ?\})?(?: .*|\\.*)?|([A-Za-z])"
    r"|(?:(?i:option|choice) )?([A-Z])(?:[).:].*)?\}?)",
    re.DOTALL,
)
"""A choice's letter, with or without its text: `(C)`, `C) 12`, `Option C: 12`."""
_EQUALS = re.compile(r"(?<![<>!:\\])=")
_UNIT_AT_END = re.compile(r"(?: ?\\text ?\{[^{}]*\}(?: ?\^ ?\{?[23]\}?)?| ?\^\\circ| ?%)+$")


def same(gold: str, given: str, depth: int = 0) -> bool:
    """Return whether an answer is the right one.

    Args:
        gold: The right answer.
        given: An answer as it was read from a response.
        depth: How deep inside lists both stand.
    """
    gold, given = tidy(gold), tidy(given)
    if not gold or not given:
        return False
    if _spelling(gold) == _spelling(given):
        return True
    if depth > _DEEPEST or not balanced(given) or not _readable(given):
        return False
    wanted = read(gold)
    if isinstance(wanted, Text):
        return letters(wanted.value) == letters(given)
    if isinstance(wanted, Choice) and (label := _LABEL.fullmatch(given)):
        found: Kind = Choice(label[1] or label[2] or label[3], label[2] is None)
    else:
        found = read(given, listed=isinstance(wanted, Many))
    if isinstance(wanted, Many):
        return _same_many(wanted, found, given, depth)
    return _same_kind(wanted, found, gold, given)


def _same_kind(wanted: Kind, found: Kind, gold: str, given: str) -> bool:
    """Of kinds that are no lists."""
    match wanted, found:
        case Choice(), Choice():
            sensitive = not (wanted.bracketed or found.bracketed)
            return wanted.letter == found.letter or (not sensitive and wanted.letter.lower() == found.letter.lower())
        case Choice(letter, bracketed), Formula(latex):
            return bracketed and latex.lower() == letter.lower()
        case Range(), Range():
            return same_number(wanted.low, found.low) and same_number(wanted.high, found.high)
        case InBase(), InBase():
            return wanted == found
        case Parts(), Parts():
            return wanted.half == found.half and [p.zfill(4) for p in wanted.numbers] == [
                p.zfill(4) for p in found.numbers
            ]
        case (Parts(), Number(value=value)) | (Number(value=value), Parts()):
            return as_fraction(wanted if isinstance(wanted, Parts) else found) == value  # type: ignore[arg-type]
        case Number(), Number():
            return same_number(wanted, found)
        case (Number(), Formula()) | (Formula(), Number()) | (Formula(), Formula()):
            return _same_formula(gold, given)
        case Formula(), Many():
            return (range_of := interval(gold)) is not None and _same_many(range_of, found, given, 0)
        case _:
            return False


def _same_many(wanted: Many, found: Kind, given: str, depth: int) -> bool:
    """Of lists, sets, tuples, intervals, matrices and unions."""
    if not isinstance(found, Many):
        as_interval = interval(given) if isinstance(found, Formula) else None
        if as_interval is None:
            return len(wanted.items) == 1 and wanted.opening == r"\{" and same(wanted.items[0], given, depth + 1)
        found = as_interval
    if len(wanted.items) != len(found.items) or wanted.rows != found.rows:
        return False
    brackets = {(wanted.opening, wanted.closing), (found.opening, found.closing)}
    if len(brackets) > 1 and not brackets <= {("", ""), ("(", ")")} and not brackets <= {("", ""), (r"\{", r"\}")}:
        return False
    if wanted.ordered or found.ordered:
        return all(same(a, b, depth + 1) for a, b in zip(wanted.items, found.items, strict=True))
    left = list(found.items)
    for item in wanted.items:
        match_ = next((other for other in left if same(item, other, depth + 1)), None)
        if match_ is None:
            return False
        left.remove(match_)
    return True


def _same_formula(gold: str, given: str) -> bool:
    """Of formulas: after names of what is equal to them, and units, are taken off."""
    named, given_named = _NAMED.fullmatch(gold), _NAMED.fullmatch(given)
    if named and given_named and named[1] != given_named[1]:
        return same_formula(_latex(gold), _latex(given))  # as y = x and x = y
    if named and (given_named or not _EQUALS.search(given)):
        gold = named[2]
    if given_named and (named or not _EQUALS.search(gold)):
        given = given_named[2]
    elif not _EQUALS.search(gold) and not named:
        given = _EQUALS.split(given)[-1]
    gold, given = (tidy(_UNIT_AT_END.sub("", text)) or text for text in (gold, given))
    if _spelling(gold) == _spelling(given):
        return True
    if max(len(gold), len(given)) > _LONGEST_FORMULA:
        return False
    numbers = plain_number(gold), plain_number(given)
    if numbers[0] and numbers[1]:
        return same_number(numbers[0], numbers[1])
    if isinstance(read(given), (Range, InBase, Text, Parts)):
        return False
    decimal = None
    for side, number in enumerate(numbers):
        if number and is_long(number):
            value, places = shortened(number)
            decimal = (str(value), places, side)
    return same_formula(_latex(gold), _latex(given), decimal)


def _readable(text: str) -> bool:
    """Whether a text is short and flat enough to be read."""
    depth = deepest = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    return deepest <= _DEEPEST_FORMULA


def _latex(text: str) -> str:
    return text.replace("%", "\\%")


def _spelling(text: str) -> str:
    """Without spaces that mean nothing: between digits they may."""
    return re.sub(r" ?([^\w ]) ?", r"\1", text)


def letters(text: str) -> str:
    """Return words as they are compared: without marks around them, and without regard to case and spacing."""
    words = re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text)
    words = re.sub(r"[\"'“”*_`$]", "", words)
    return re.sub(r" ?([,;/&-]) ?", r"\1", re.sub(r"\s+", " ", words)).strip(" .!?,;:").casefold()
