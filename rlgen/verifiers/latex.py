"""One spelling for what LaTeX and Unicode spell in many ways, before answers are compared."""
# ruff: noqa: RUF001  # its tables hold the characters that look alike

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from rlgen.verifiers.boxes import closing_braces, unbox

_SYMBOLS = str.maketrans(
    dict.fromkeys("−–—‐‑‒", "-")
    | dict.fromkeys("\u00a0\u2009\u202f", " ")
    | dict.fromkeys("\u200b\ufeff", "")
    | {"“": '"', "”": '"', "’": "'", "‘": "'", "ℝ": r"\mathbb{R}", "°": r"^\circ "}
    | {"×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "±": r"\pm ", "∞": r"\infty "}
    | {"π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset "}
    | {"≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq "}
)
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "₀₁₂₃₄₅₆₇₈₉"
_RAISED_AS = dict(zip(_RAISED, "0123456789-+n", strict=True))
_LOWERED_AS = dict(zip(_LOWERED, "0123456789", strict=True))
_TEXT = (
    r"\\(?:textbf|textit|textrm|textsf|texttt|textnormal|textup|text|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|bold"
    r"|boldsymbol|emph|underline|operatorname\*?)(?=\s*\{)\s*"
)
_SUBSTITUTIONS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|bigg|Bigg|middle)(?![A-Za-z])\s*\.?(?=[^\w]|$)"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|bf|rm|it|ensuremath)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:text)?color ?\{[^{}]*\}"), ""),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\\(?:text|mathrm) ?\{ ?infinity ?\}|\binfinity\b", re.IGNORECASE), r"\\infty"),
    (re.compile(r"^\\mathbb ?(?:\{ ?R ?\}|R)$"), r"(-\\infty,\\infty)"),
    (re.compile(r"(?<=\d)\\textsuperscript ?\{ ?(?:st|nd|rd|th) ?\}"), ""),
    (re.compile(r"\\phantom\s*(?:\{[^{}]*\}|.)"), ""),
    (re.compile(r"(?<=\d)\s*(?:\{,\}|,\s*\\!|\\,|\\!|\\;|\\:)\s*(?=\d{3}(?!\d))"), ","),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\(?:thinspace|enspace|space)(?![A-Za-z])"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(_TEXT), r"\\text"),
    (re.compile(r"\\(?:lbrace|rbrace)(?![A-Za-z])"), lambda found: r"\{" if found[0] == r"\lbrace" else r"\}"),
    (re.compile(r"\\(?:le|ge|ne)(?![A-Za-z])"), lambda found: found[0] + "q"),
    (re.compile(r"\\(?:leqslant|geqslant)(?![A-Za-z])"), lambda found: found[0][:4]),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}|\\degree(?![A-Za-z])|\^\s*\\circ(?![A-Za-z])"), r"^\\circ"),
    (re.compile(r"\\text\{\s*([^{}\\]*?)\s*\\\%\s*\}"), r"\\text{\1}\\%"),
    (re.compile(r"(?<!\\)\\[%$#&_]"), lambda found: found[0] if found[0] in ("\\_", "\\&") else found[0][1]),
    (re.compile(r"\\(?:l|r)?vert(?![A-Za-z])"), "|"),
    (
        re.compile(r"(?<=\d)\s*\^\s*(?:\{\s*(?:\\text\s*\{\s*)?|\\text\s*\{\s*)?(?:st|nd|rd|th)(?![A-Za-z])[\s}]*"),
        "",
    ),
    (re.compile(r"(?<=1)st\b|(?<=2)nd\b|(?<=3)rd\b|(?<=\d)th\b"), ""),
    (re.compile(r"(?<=[\d%])\s*-{2,3}\s*(?=[\d$])"), "-"),
    (re.compile(r"\s+"), " "),
]  # fmt: skip
_WRAPPERS = [("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")]
_WRAPPERS += [(mark, mark) for mark in ("**", "__", "`", '"', "'")]
_LONGEST = 4_000
"""Characters of the longest answer that is read; a longer one is compared as it stands."""


def tidy(answer: str) -> str:
    """Return an answer in one spelling: of dashes, spaces, fractions, text commands, brackets and wrappers.

    What is mathematically or literally another answer stays another one.
    """
    if len(answer) > _LONGEST:
        return answer.strip()
    found = unbox(_unicode(answer)).strip()
    found = _unwrap(found)
    for pattern, by in _SUBSTITUTIONS:
        found = pattern.sub(by, found)
    previous = None
    while previous != found:  # each turn removes something
        previous = found
        found = _unwrap(_trimmed(found))
    return found


def _unicode(text: str) -> str:
    text = re.sub(f"[{_RAISED}]+", lambda found: "^{" + "".join(_RAISED_AS[c] for c in found[0]) + "}", text)
    text = re.sub(f"[{_LOWERED}]+", lambda found: "_{" + "".join(_LOWERED_AS[c] for c in found[0]) + "}", text)
    text = re.sub(r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text).replace("√", r"\sqrt")
    text = re.sub("[¼-¾⅐-⅞]", _fraction, text)
    return unicodedata.normalize("NFKC", text.translate(_SYMBOLS))


def _fraction(found: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", found[0]).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _trimmed(text: str) -> str:
    """Without space and punctuation at the ends; a `!` may be a factorial."""
    text = re.sub(r"^[\s:=]+(?=[^\s=])|[\s;:,?]+$|(?<!\.)\.+\s*$|(?<=[A-Za-z]{2})!+$|\\+$", "", text.strip())
    return text.strip()


def _unwrap(text: str) -> str:
    """Without delimiters around the whole."""
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : len(text) - len(closing)]
        around = len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing)
        if around and opening not in inner and closing not in inner:
            return inner.strip()
    for opening in (r"\text{", "{"):
        if text.startswith(opening) and closing_braces(text).get(len(opening) - 1) == len(text) - 1:
            return text[len(opening) : -1].strip()
    return text


def balanced(text: str) -> bool:
    """Return whether every brace is closed, and every closing one opened."""
    opening, closing = _braces(text)
    return opening == closing == len(closing_braces(text))


def unclosed(text: str) -> bool:
    """Return whether a brace is opened that the text does not close: it was cut off in a formula."""
    return _braces(text)[0] > len(closing_braces(text))


def _braces(text: str) -> tuple[int, int]:
    plain = re.sub(r"\\.", "", text, flags=re.DOTALL)
    return plain.count("{"), plain.count("}")


def split(text: str, separators: str = ",;") -> list[str]:
    """Return the parts between separators that stand outside all brackets; thousands are not separated."""
    parts, depth, start, place = [], 0, 0, 0
    while place < len(text):
        character = text[place]
        if character == "\\":
            opens, closes = text[place + 1 : place + 2] == "{", text[place + 1 : place + 2] == "}"
            depth += opens - closes
            place += 2
            continue
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in separators:
            parts.append(text[start:place])
            start = place + 1
        place += 1
    return [part.strip() for part in [*parts, text[start:]]]
