"""Values of JSON and of data sets: numbers keep the text that a person wrote, and only some values are texts."""

from __future__ import annotations

import datetime
import json
import math
import sys
import unicodedata
from decimal import Decimal
from typing import Any, NoReturn

_DIGITS = sys.int_info.default_max_str_digits
"""Digits of the longest integer that Python converts to and from text."""
_EXACT = 2**53
"""From here on, a float does not hold every integer."""
_SHOWN = 60
"""Characters of a value that a message quotes."""


class BadJson(ValueError):
    """A text is not the JSON that is read here. The message says why, and where in the text."""


class Number(float):
    """A number of a JSON text that is no ordinary integer. It keeps its literal: `1.50` stays `1.50`."""

    __slots__ = ("literal",)
    literal: str

    def __new__(cls, literal: str) -> Number:
        """Make the number that a literal stands for; it can be infinite or NaN."""
        found = super().__new__(cls, literal)
        found.literal = literal
        return found

    def __str__(self) -> str:
        """Return the digits that were written, an exponent written out."""
        try:
            return _number(self)
        except ValueError:
            return self.literal


def is_blank(text: str) -> bool:
    """Return whether a text has nothing that a person can see: white space and marks such as U+200B alone."""
    return not text.strip() or all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def parse_json(text: str) -> Any:
    """Parse a JSON text so that no number changes.

    Args:
        text: The text of one JSON value.

    Returns:
        The value. Numbers with a fraction or an exponent, NaN, infinities and very long integers are of type `Number`.

    Raises:
        BadJson: It is not JSON, an object has a key twice, or it is nested too deeply.
    """
    try:
        return json.loads(
            text, parse_float=Number, parse_int=_integer, parse_constant=Number, object_pairs_hook=_object
        )
    except json.JSONDecodeError as error:
        raise BadJson(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise BadJson("lists or objects are nested too deeply") from None


def text_of(value: Any) -> str:
    """Return a value as text.

    Args:
        value: A text or a number, from JSON or from a data set.

    Returns:
        The text itself, or the digits of the number as they were written, without an exponent.

    Raises:
        ValueError: The value is something else, or no finite number, or a text that cannot be written as UTF-8 or has
            a NUL character. The message says what it is and what to do.
    """
    if isinstance(value, str):
        _check_text(value)
        return value
    if isinstance(value, bool):
        raise ValueError(f"is the truth value {str(value).lower()}, not a text; write in quotes what it should read")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, Decimal)):
        return _number(value)
    if isinstance(value, (list, tuple)):
        raise ValueError('is a list, not a text; write one text, for instance "3, 5"')
    if isinstance(value, dict):
        raise ValueError("is an object, not a text; name a field that holds a text")
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        raise ValueError("was read as a date or a time, not as a text; store the column as text")
    raise ValueError(f"is of type {type(value).__name__}, not a text; store the column as text")


def check_utf8(text: str) -> None:
    """Raise ValueError if a text cannot be written as UTF-8, because it has half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"has half of a surrogate pair (\\u{ord(text[error.start]):04x}) at character {error.start + 1}; "
            "write the whole character"
        ) from None


def shown(value: Any) -> str:
    """Return a short form of a value that can be printed in a message."""
    if isinstance(value, Number):
        found = value.literal
    elif isinstance(value, (list, tuple, dict)):
        found = f"a list of {len(value)}" if not isinstance(value, dict) else f"an object of {len(value)} fields"
    else:
        found = repr(value)
    return found if len(found) <= _SHOWN else found[: _SHOWN - 3] + "..."


def listed(names: Any) -> str:
    """Return field names in a form that can be printed in a message."""
    found = ", ".join(sorted(str(name) for name in names)).encode(errors="backslashreplace").decode()
    return (found if len(found) <= 10 * _SHOWN else found[: 10 * _SHOWN] + "...") or "no fields"


def _check_text(text: str) -> None:
    check_utf8(text)
    if "\0" in text:
        raise ValueError(f"has a NUL character at character {text.index(chr(0)) + 1}; remove it")


def _number(value: float | Decimal) -> str:
    """Return the digits of a number; raise ValueError if they are not known exactly."""
    literal = value.literal if isinstance(value, Number) else None
    if not math.isfinite(value):
        if literal is not None and literal.lstrip("-").isdecimal():
            raise ValueError(f"is a number of {len(literal.lstrip('-')):,} digits; write it in quotes")
        raise ValueError(f"is {shown(value)}, which is no finite number; write a number, or a text in quotes")
    if literal is None and isinstance(value, float) and abs(value) >= _EXACT:
        raise ValueError(f"is the float {value!r}, whose last digits are lost; store the column as text")
    written = literal or str(value)
    if "e" not in written.lower():
        return written
    exact = Decimal(written)
    if exact and not float(value):
        raise ValueError(f"is {shown(value)}, which is too small for a number; write it in quotes")
    return format(exact, "f")


def _integer(literal: str) -> float:
    return int(literal) if len(literal) <= _DIGITS else Number(literal)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _refuse_twice([key for key, _ in pairs])
    return found


def _refuse_twice(keys: list[str]) -> NoReturn:
    key = next(key for key in keys if keys.count(key) > 1)
    raise BadJson(f"field `{listed([key])}` is there twice in one object; keep one of them")
