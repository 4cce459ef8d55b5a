"""What kind of answer a text is: words, a choice, a range, a number in a base, a list, a formula (docs/answers.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import gcd

from rlgen.verifiers.latex import split, tidy
from rlgen.verifiers.numbers import FUNCTIONS, Number, plain_number, whole_number


@dataclass(frozen=True)
class Text:
    """Words, letter lists, dates: compared letter by letter, without regard to case and spacing."""

    value: str


@dataclass(frozen=True)
class Choice:
    """One letter that names a choice, as `C` or `(C)`."""

    letter: str
    bracketed: bool


@dataclass(frozen=True)
class Range:
    """From one number to another, as `1990-1995`; never their difference."""

    low: Number
    high: Number


@dataclass(frozen=True)
class InBase:
    """A number with its base, as `2516_8`."""

    digits: str
    base: int


@dataclass(frozen=True)
class Parts:
    """Whole numbers with colons between: a ratio or a time of day, with `am` or `pm` if given."""

    numbers: tuple[str, ...]
    half: str = ""


@dataclass(frozen=True)
class Many:
    """Several answers: a list, a set, a tuple, an interval, a matrix or a union of intervals."""

    items: tuple[str, ...]
    opening: str = ""
    """The bracket before them; empty for a list, `\\\\{` for a set, `\\\\cup` for a union."""
    closing: str = ""
    rows: int = 1
    """Rows of a matrix."""

    @property
    def ordered(self) -> bool:
        """Whether the order of the items counts."""
        return self.opening not in ("", r"\{", r"\cup")


@dataclass(frozen=True)
class Formula:
    """Anything else, in LaTeX: compared as mathematics."""

    latex: str


Kind = Text | Choice | Range | InBase | Parts | Many | Number | Formula

_WORD = r"[^\W\d_]+"
_LETTERS = re.compile(
    rf"{_WORD}(?:(?:, ?| and | or | ?[/&] ?|[ '.]|\. |(?<=[^\W\d_]{{2}})-(?=[^\W\d_]{{2}})){_WORD})*[.!]*"
)
_CHOICE = re.compile(r"\( ?([A-Za-z]) ?\)|([A-Z])")
_LABELLED = re.compile(r"(?:\\text ?\{ ?)?\( ?([A-J]) ?\)(?: ?\})?[:. ]? ?(?=\S)(.+)")
_CLOCK = re.compile(r"(\d{1,4}) ?: ?(\d{1,4})(?: ?: ?(\d{1,4}))? ?(?:\\text ?\{)? ?(?:([AaPp])\.? ?[Mm]\.?)? ?\}?")
_HOUR = re.compile(r"(\d{1,2}) ?(?:\\text ?\{)? ?([AaPp])\.? ?[Mm]\.? ?\}?")
_NUMBER = r"[$€£]? ?\d[\d,]*(?:\.\d+)? ?%?"
_RANGE = re.compile(
    rf"(?:from )?(?:({_NUMBER}) ?(?:-|\\text ?\{{ ?-+ ?\}}|\\sim) ?({_NUMBER})"
    rf"|(-? ?{_NUMBER}) ?(?:\bto\b|\\text ?\{{ ?to ?\}}) ?(-? ?{_NUMBER}))(?: ?\\text ?\{{[^{{}}]*\}}| [A-Za-z]+)?"
)
_DATE = re.compile(r"\d+(?: ?- ?\d+){2,}|\d+(?:/\d+){2,}|\d+(?:\.\d+){2,}")
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16, "binary": 2, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16,
}  # fmt: skip
_BASE = r"\(? ?(?:\\text ?\{ ?)?(?:base[ -]?)?(?:\} ?)?(\d{1,2}|[a-z]+) ?\}? ?\)?"
_IN_BASE = re.compile(
    r"\(? ?(?:\\text ?\{ ?)?(-? ?[0-9A-Za-z][0-9A-Za-z ]*(?:\.[0-9A-Za-z]+)?) ?\}? ?\)? ?_ ?"
    rf"(?:\{{ ?{_BASE} ?\}}|(?:\\text ?\{{ ?([a-z]+) ?\}})|(\d{{1,2}}))"
)
_BASE_WORDS = re.compile(
    r"(-? ?[0-9A-Z][0-9A-Z ]*?) ?,? ?(?:\\text ?\{)? ?\(? ?(?:in )?base ?[ -]?\}? ?(\d{1,2}|[a-z]+) ?\)? ?\}?", re.I
)
_AND = re.compile(r",? ?(?:\\text ?\{ ?,? ?(?:and|or) ?\}|\b(?:and|or)\b|\\(?:lor|land|vee|wedge|mid)(?![a-z])) ?")
_MATRIX = re.compile(r"\\begin ?\{([a-zA-Z]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end ?\{\1\}", re.DOTALL)
_MEMBER = re.compile(r"[A-Za-z] ?\\in(?![a-z]) ?(.*)", re.DOTALL)
_LIMIT = r"[^A-Za-z<>=\\]*(?:\\(?:frac|sqrt|pi|infty)[^A-Za-z<>=]*)*"
_BETWEEN = re.compile(rf"({_LIMIT})(<|\\leq)(?![a-z]) ?[A-Za-z] ?(<|\\leq)(?![a-z])({_LIMIT})")
_BEYOND = re.compile(rf"[A-Za-z] ?(<|>|\\leq|\\geq)(?![a-z])({_LIMIT})")
_CLOSINGS = {"(": ")]", "[": ")]", r"\{": r"\}", r"\langle": r"\rangle"}


def read(answer: str, listed: bool = False) -> Kind:
    """Return what kind of answer a text is.

    Args:
        answer: An answer, tidied or not.
        listed: Whether commas always separate items, as where a list is expected; else `1,000` is one number.
    """
    text = tidy(answer)
    if found := _literal(text):
        return found
    if not listed and (number := plain_number(text)):
        return number
    return _many(text) or _words(text) or plain_number(text) or Formula(text)


def _literal(text: str) -> Kind | None:
    """Kinds that would read as other mathematics."""
    if found := _CHOICE.fullmatch(text):
        return Choice(found[1] or found[2], found[1] is not None)
    if found := _LABELLED.fullmatch(text):
        return Choice(found[1], True) if not isinstance(read(found[2]), Number) else read(found[2])
    if _LETTERS.fullmatch(text) and sum(map(str.isalpha, text)) > 1 and text.lower() not in FUNCTIONS:
        return Text(text)
    if found := _CLOCK.fullmatch(text):
        return Parts(tuple(part for part in found.group(1, 2, 3) if part), (found[4] or "").lower())
    if found := _HOUR.fullmatch(text):
        return Parts((found[1], "00"), found[2].lower())
    if _DATE.fullmatch(text):
        return Text(text)
    found = _IN_BASE.fullmatch(text) or _BASE_WORDS.fullmatch(text)
    if found and (in_base := _based(found[1], next(filter(None, found.groups()[1:]), ""))):
        return in_base
    if found := _RANGE.fullmatch(text):
        ends = [plain_number(end.strip()) for end in (found[1] or found[3], found[2] or found[4])]
        if ends[0] and ends[1]:
            return Range(ends[0], ends[1])
    return None


def _based(digits: str, name: str) -> Kind | None:
    """A number in a base; base ten is a plain number, and letters are digits only where the base has them."""
    digits = digits.replace(" ", "")
    base = _BASES.get(name) if not name.isdigit() else int(name)
    if base is None or not 2 <= base <= 99:
        return None
    if not any(map(str.isdigit, digits)) and (base <= 10 or len(digits) < 2):
        return None  # a_2 is a variable
    if base == 10 and (number := plain_number(digits)):
        return number
    sign = "-" if digits.startswith("-") else ""
    return InBase(sign + (digits.lstrip("-").upper().lstrip("0") or "0"), base)


def _many(text: str) -> Many | None:
    if r"\pm" in text and len(text) < 1000:
        signs = (("+", "-"), ("-", "+"))
        both = [re.sub(r"\\pm(?![a-z])", a, re.sub(r"\\mp(?![a-z])", b, text)) for a, b in signs]
        inner = [read(each, listed=True) for each in both]
        if all(isinstance(kind, Many) and kind.opening in ("", r"\{") for kind in inner):
            return _expanded(text)
        if not any(isinstance(kind, Many) for kind in inner):
            return Many(tuple(each.removeprefix("+").strip() for each in both))
    if found := _MEMBER.fullmatch(text):
        return _many(found[1].strip())
    if found := _MATRIX.fullmatch(text):
        rows = [
            split(row, "&") for row in re.split(r"\\\\|\\cr(?![a-z])", found[2].strip().removesuffix("\\\\").strip())
        ]
        return Many(tuple(cell for row in rows for cell in row), "matrix", "matrix", len(rows))
    parts = re.split(r"\\cup(?![a-z])", text)
    if len(parts) > 1:
        return Many(tuple(map(tidy, parts)), r"\cup", r"\cup")
    items = split(_AND.sub(",", text)) if _AND.search(text) else split(text)
    items = [item for item in items if item]
    if len(items) > 1:
        return Many(tuple(items))
    return _bracketed(text)


def _expanded(text: str) -> Many:
    """A list or set some of whose items have two signs."""
    bare = re.sub(r"^\\\{|\\\}$", "", text)
    items: list[str] = []
    for item in split(_AND.sub(",", bare)):
        found = _many(item) if r"\pm" in item else None
        items += found.items if found else [item]
    opening = r"\{" if text.startswith(r"\{") else ""
    return Many(tuple(items), opening, r"\}" if opening else "")


def _bracketed(text: str) -> Many | None:
    """A set, a tuple or an interval; one thing in round brackets is but that thing."""
    for opening, closings in _CLOSINGS.items():
        if not text.startswith(opening):
            continue
        closing = next(
            (c for c in (closings if len(closings) == 2 and opening in "([" else [closings]) if text.endswith(c)), None
        )
        if closing is None:
            return None
        inner = text[len(opening) : len(text) - len(closing)].strip()
        items = split(inner)
        if opening in "([" and (len(items) < 2 or not _whole(text)):
            return None
        return Many(tuple(items) if inner else (), opening, closing)
    return None


def _whole(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 0:
            return place == len(text) - 1
    return False


def _words(text: str) -> Text | None:
    """Text that has a word in it which is no unit at the end of a number, as `July 4` or `Route 66`."""
    if plain_number(text):
        return None
    if re.search(r"\d ?: ?\d|\d ?[ap]m\b", text, re.IGNORECASE):  # hours from and to
        return Text(text)
    outside = re.sub(r"\\text ?\{[^{}]*\}|\\[A-Za-z]+", " ", text)
    word = re.search(r"[^\W\d_]{4,}", outside)
    if word and word[0].lower() not in FUNCTIONS:
        return Text(text)
    if re.fullmatch(r"[^\\^_+*/<>=(){}]*", text) and re.search(r"[^\W\d_]{3}", text) and re.search(r"\d", text):
        return Text(text)
    said = "".join(re.findall(r"\\text ?\{([^{}]*)\}", text))
    rest = re.sub(r"\\text ?\{[^{}]*\}", "", text)
    if len(re.findall(r"[^\W\d_]", said)) > 1 and not re.search(r"\\[A-Za-z]|[+*/^<>=]", rest):
        return Text(re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text))
    return None


def interval(text: str) -> Many | None:
    """Return the interval that an inequality of one variable means, as `(2,5]` of `2 < x \\\\leq 5`."""
    text = tidy(text)
    if found := _BETWEEN.fullmatch(text):
        opening, closing = ("(" if found[2] == "<" else "["), (")" if found[3] == "<" else "]")
        return Many((found[1].strip(), found[4].strip()), opening, closing)
    if found := _BEYOND.fullmatch(text):
        limit, less = found[2].strip(), found[1] in ("<", r"\leq")
        closed = found[1] in (r"\leq", r"\geq")
        if less:
            return Many((r"-\infty", limit), "(", "]" if closed else ")")
        return Many((limit, r"\infty"), "[" if closed else "(", ")")
    return None


def as_fraction(parts: Parts) -> Fraction | None:
    """Return the value of a ratio in lowest terms; None of a time of day."""
    numbers = [whole_number(part) for part in parts.numbers]
    if len(numbers) != 2 or parts.half or None in numbers or parts.numbers[1].startswith("0"):
        return None
    first, second = (number for number in numbers if number is not None)
    return Fraction(first, second) if second and gcd(first, second) == 1 else None
