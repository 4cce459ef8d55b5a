"""Plain numbers, exactly: integers, decimals, fractions, mixed numbers, powers of ten, with their units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_MONEY = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen"}
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?P<whole>{_DIGITS})?(?:\.(?P<part>\d+)?)?"
_FRACTION = re.compile(
    r"(?P<sign>[+-])? ?(?:(?P<mixed>\d+) ?)?"
    r"(?:\\frac ?(?:\{(?P<top>[+-]? ?\d+)\}|(?P<top1>\d)) ?(?:\{(?P<bottom>[+-]? ?\d+)\}|(?P<bottom1>\d))"
    r"|(?P<plain>(?<![\d.])\d+) ?/ ?(?P<over>\d+))"
)
_DECIMALS = re.compile(
    rf"(?P<sign>[+-])? ?{_DECIMAL}"
    r"(?: ?(?:\\times|\\cdot|\*|x) ?10 ?(?:\^|\*\*) ?(?:\{ ?(?P<power>[+-]?\d+) ?\}|(?P<power1>[+-]?\d+))"
    r"|[eE](?P<power2>[+-]?\d+))?"
)
_UNIT = re.compile(
    r"(?:\\text ?\{(?P<text>[^{}]*)\}|(?P<word>[A-Za-z][A-Za-z.]*(?:[ /-][A-Za-z.]+)*))"
    r" ?(?:\^ ?(?:\{(?P<power>[23])\}|(?P<power1>[23])))?"
)
_ALIASES = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km",
    "millimeter": "mm", "millimetre": "mm", "inche": "inch", "inches": "inch", "in": "inch", "feet": "foot",
    "ft": "foot", "yard": "yd", "mile": "mi", "gram": "g", "kilogram": "kg", "kilo": "kg", "pound": "lb", "ounce": "oz",
    "liter": "l", "litre": "l", "gallon": "gal", "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h",
    "degree": "degree", "deg": "degree", "usd": "dollar", "buck": "dollar", "percentage": "percent", "pct": "percent",
    "people": "person", "children": "child", "men": "man", "women": "woman",
    "unit": "", "square unit": "", "cubic unit": "", "sq unit": "", "cu unit": "", "units squared": "",
    "mph": "mi per h", "km/h": "km per h", "kmh": "km per h",
}  # fmt: skip
_KNOWN = set(_ALIASES) | set(_ALIASES.values())
FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "sec", "csc", "cot", "log", "ln", "exp", "max", "min", "mod", "gcd", "lcm", "det", "sqrt"}
    | {"arcsin", "arccos", "arctan"}
)
"""Names that mean a function where they stand in a formula."""
_MOST_DIGITS = 100_000
_MOST_POWER = 10_000
_FLOAT_DIGITS, _KEPT_DIGITS = (16, 17, 18), 12
"""A decimal with this many significant digits is taken for a printed float; its first 12 digits count."""
CLOSE_PLACES = 6
"""A decimal with this many digits after its leading zeros may stand for a value that was rounded or cut to it."""


@dataclass(frozen=True)
class Number:
    """A plain number as it is written."""

    value: Fraction
    """Without its percent sign or unit."""
    places: int = 0
    """Digits after the decimal point."""
    percent: bool = False
    unit: str = ""
    """In one spelling; empty if there is none."""
    digits: int = 0
    """Significant digits of a decimal."""


def plain_number(text: str) -> Number | None:
    """Return the number that a tidied text is, or None if it is not one plain number."""
    text, unit, percent = _money(text)
    found = _core(text)
    if found is None:
        body, own = _without_unit(text)
        if own is None:
            return None
        if own == "percent":
            percent = True
        elif unit and own and own != unit:
            return None
        else:
            unit = own or unit
        found = _core(body)
    if found is None:
        return None
    value, places, digits = found
    return Number(value, places, percent, unit, digits)


def _money(text: str) -> tuple[str, str, bool]:
    """Return a text without currency and percent signs, the currency and whether there was a percent sign."""
    percent = bool(re.search(r" ?%$", text))
    text = re.sub(r" ?%$", "", text)
    unit = ""
    if money := re.match(r"([+-]? ?)([$€£¥]) ?(?=[\d.\\-])", text):
        unit, text = _MONEY[money[2]], money[1].strip() + text[money.end() :]
    elif money := re.search(r"(?<=[\d]) ?([$€£¥])$", text):
        unit, text = _MONEY[money[1]], text[: money.start()]
    return text, unit, percent


def _core(text: str) -> tuple[Fraction, int, int] | None:
    """Return value, decimal places and significant digits of a number without unit."""
    text = _bare(text)
    if found := _FRACTION.fullmatch(text):
        top, bottom = (
            found[a] if found[a] is not None else found[b] if found[b] is not None else found[c]
            for a, b, c in (("top", "top1", "plain"), ("bottom", "bottom1", "over"))
        )
        above, below = whole_number(top), whole_number(bottom)
        mixed = whole_number(found["mixed"] or "0")
        if above is None or below is None or mixed is None or below == 0:
            return None
        if found["mixed"] and (above < 0 or below < 0):
            return None
        value = mixed + Fraction(above, below)
        return (-value if found["sign"] == "-" else value), 0, 0
    found = _DECIMALS.fullmatch(text)
    if not found or not (found["whole"] or found["part"]):
        return None
    whole, part = (found["whole"] or "").replace(",", "").replace(" ", ""), found["part"] or ""
    power = whole_number(found["power"] or found["power1"] or found["power2"] or "0")
    number = whole_number(whole + part)
    if number is None or power is None or abs(power) > _MOST_POWER:
        return None
    value = Fraction(number) * Fraction(10) ** (power - len(part))
    digits = len((whole + part).lstrip("0"))
    return (-value if found["sign"] == "-" else value), max(len(part) - power, 0) if part else 0, digits


def _bare(text: str) -> str:
    """Without braces or round brackets around the whole, and with one space at most between sign and digits."""
    while len(text) > 2 and (text[0], text[-1]) in (("{", "}"), ("(", ")")) and not re.search(r"[(){}]", text[1:-1]):
        text = text[1:-1].strip()
    return text


def whole_number(text: str) -> int | None:
    """Return the integer that digits are, of any length that is reasonable."""
    text = text.replace(" ", "")
    digits = text.lstrip("+-")
    if not digits.isdecimal() or not digits.isascii() or len(digits) > _MOST_DIGITS:
        return None
    value = 0
    for start in range(0, len(digits), 4000):  # Python converts 4,300 digits at once at most
        piece = digits[start : start + 4000]
        value = value * 10 ** len(piece) + int(piece)
    return -value if text.startswith("-") else value


def _without_unit(text: str) -> tuple[str, str | None]:
    """Return a text without the unit at its end, and the unit in one spelling; None if there is none."""
    if text.endswith(r"^\circ"):
        return text[: -len(r"^\circ")].strip(), "degree"
    place = re.search(r"(?: ?\\text ?\{[^{}]*\}| ?(?<![A-Za-z\\])[A-Za-z][A-Za-z./ -]*)(?: ?\^ ?\{?[23]\}?)?$", text)
    if not place or place.start() == 0:
        return text, None
    found = _UNIT.fullmatch(place[0].strip())
    if not found:
        return text, None
    body = text[: place.start()].strip()
    degrees = body.endswith(r"^\circ")
    body = body.removesuffix(r"^\circ").strip()
    power = found["power"] or found["power1"] or ""
    word = found["text"] if found["text"] is not None else found["word"]
    if found["text"] is None and not _is_unit(word, place[0].startswith(" ") or degrees):
        return text, None
    unit = same_unit(word, power)
    return body, f"degree {unit}".strip() if degrees else unit


def _is_unit(word: str, spaced: bool) -> bool:
    """Whether letters after a number are a unit and no variables: `10 cm`, `10cm`, `5 apples`, but not `5x`, `2xy`."""
    letters = word.replace(".", "").lower()
    known = len(letters) > 1 and bool({letters, letters.removesuffix("s")} & _KNOWN)
    return known or (spaced and len(letters.split(" ")[0]) > 2 and letters.split(" ")[0] not in FUNCTIONS)


def same_unit(word: str, power: str = "") -> str:
    """Return one spelling of a unit: without plural, points and long names; `square` and `cubic` as powers."""
    words = re.sub(r"\s+", " ", word.strip().lower().replace(".", ""))
    words = re.sub(r"^of ", "", words)
    for name, number in (("square", "2"), ("sq", "2"), ("cubic", "3"), ("cu", "3")):
        if words.startswith(f"{name} "):
            words, power = words.removeprefix(f"{name} "), number
    for name, number in (("squared", "2"), ("cubed", "3")):
        if words.endswith(f" {name}"):
            words, power = words.removesuffix(f" {name}"), number
    found = _ALIASES.get(words)
    if found is None:
        short = re.sub(r"(?<=\w)s\b", "", words) if len(words) > 2 else words
        found = _ALIASES.get(short, short)
    return f"{found}^{power}" if power and found else found


def same_number(gold: Number, given: Number) -> bool:
    """Return whether two plain numbers are equal.

    Values are compared exactly. A decimal with `CLOSE_PLACES` digits or more may stand for a number that it is rounded
    or cut from. Units are compared if both have one; a percent sign counts as a unit or as a hundredth.
    """
    if gold.unit and given.unit and gold.unit != given.unit:
        return False
    if close(gold, given):
        return True
    if gold.percent == given.percent:
        return False
    hundredth = [
        Number(n.value / 100, n.places + 2, False, n.unit, n.digits) if n.percent else n for n in (gold, given)
    ]
    return close(*hundredth)


def close(gold: Number, given: Number) -> bool:
    """Return whether two values are equal, or one is a long decimal of the other."""
    if gold.value == given.value:
        return True
    coarse, fine = (
        (given, gold) if is_long(given) and (not is_long(gold) or given.places <= gold.places) else (gold, given)
    )
    if not is_long(coarse):
        return False
    if fine.places and fine.places < coarse.places:
        return False
    return decimal_of(coarse, fine.value)


def is_long(number: Number) -> bool:
    """Return whether a decimal is long enough to stand for another number."""
    before = len(str(abs(int(number.value)))) if abs(number.value) >= 1 and number.digits < 4000 else 0
    return number.places > 0 and number.digits - before >= CLOSE_PLACES


def decimal_of(decimal: Number, value: Fraction) -> bool:
    """Return whether a long decimal is a value rounded or cut to its places."""
    written, places = shortened(decimal)
    if places <= 0:
        return written == value
    scaled = value * 10**places
    return written * 10**places in (int(scaled), round(scaled))


def shortened(decimal: Number) -> tuple[Fraction, int]:
    """Return value and places of a decimal, without the last digits of a float: they are not exact."""
    if decimal.digits not in _FLOAT_DIGITS:
        return decimal.value, decimal.places
    places = decimal.places - (decimal.digits - _KEPT_DIGITS)
    return Fraction(round(decimal.value * Fraction(10) ** places)) / Fraction(10) ** places, places
