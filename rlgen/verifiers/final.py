"""The final answer of a response: the one rule of all built-in verifiers (docs/answers.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlgen.verifiers.boxes import last_boxes
from rlgen.verifiers.latex import unclosed
from rlgen.verifiers.thinking import after_thinking, tagged

_ANCHOR = re.compile(
    r"\banswers?\b(?:[^.\n:=$]{0,80}?(?:\b(?:is|are|was|be|equals?)\b(?! *not\b)|[:=])[ \t]*[:*_]*|[ \t:*_]*(?=\n|\Z))",
    re.IGNORECASE,
)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE)
_SENTENCE = re.compile(r"[.!?](?=\s+[A-Z(\\$*\"]|\s*$)")
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_TERM = rf"[-+−]?\(?[-+−]?[$€£]?(?:{_NUMBER})(?:_\{{?\d+\}}?)?(?:st|nd|rd|th|\s?\\?%|!|°)?\)?"  # noqa: RUF001
_PLAIN = rf"(?<![\w.\\^_{{]){_TERM}(?:\s?(?:[-+*/^×÷=:–−]|\\times|\\div|\\cdot)\s?{_TERM})*(?![\w^\\{{]|\.\d)"  # noqa: RUF001
_SPANS = re.compile(
    r"\$\$(?P<a>[^$]{1,2000}?)\$\$"
    r"|\\\[(?P<b>.{1,2000}?)\\\]"
    r"|\\\((?P<c>.{1,2000}?)\\\)"
    r"|(?<![\\\d])\$(?=\S)(?P<d>(?:\\\$|[^$\n]){1,2000}?)(?<=\S)(?<!\\)\$(?!\d)"
    r"|(?<!\\)\$ (?P<e>[^$\n]{1,2000}?) \$"
    r"|(?P<f>[-+]?\d*\\(?:[dt]?frac|sqrt|pi)(?:\[\d+\])?(?: ?\{[^{}\n]{0,200}\}|\d|(?<=[ci])[a-z])*)"
    rf"|(?P<g>{_PLAIN})",
    re.DOTALL,
)
_JOINS = re.compile(r"[\s,;*]*(?:\band\b|\bor\b)?[\s,;*]*(?:[A-Za-z]\s*=\s*)?", re.IGNORECASE)
_LETTER = re.compile(r"[\s*(\[]*([A-Z])[)\].:*]*(?=[\s,]|$)")
_LONGEST = 20_000
"""Characters at a response's end in which an answer without a box is looked for."""


@dataclass(frozen=True)
class Final:
    """Where a response's final answer stands."""

    boxes: tuple[str, ...] = ()
    """What the last boxes hold, if there is any; several if they answer together."""
    passage: str = ""
    """Without a box: the line that follows the last "the answer is", or the last line."""
    said: bool = False
    """Whether the passage follows "the answer is"."""
    before: str = ""
    """Without a box and without "the answer is": the response's end, the passage included."""


def final(response: str) -> Final | None:
    """Return where a response's final answer stands; None if it gives none, or was cut off in it."""
    text = after_thinking(response)
    if text is None:
        return None
    found = last_boxes(text)
    if found is None:
        return None
    if found:
        return Final(tuple((box.content or "").strip() for box in found))
    text = tagged(text).strip()[-_LONGEST:]
    last = text.rpartition("\n")[2].strip()
    if not text or unclosed(last):
        return None
    hashes = [line[1].strip() for line in _HASHES.finditer(text) if re.search(r"\d", line[1]) and len(line[1]) < 40]
    if hashes:
        return Final(passage=hashes[-1], said=True)
    anchors = list(_ANCHOR.finditer(text))
    if not anchors:
        return Final(passage=last, before=text)
    rest = text[anchors[-1].end() :].lstrip(" \t*_:")
    line = rest.partition("\n")[0].strip()
    if not line or line in ("\\[", "$$"):
        line = re.split(r"\n\s*\n", rest.strip())[0].strip()
    return Final(passage=line, said=True) if line else None


def said(response: str) -> str | None:
    """Return a response's final answer as it is written, whatever kind of answer it is; None if it gives none."""
    found = final(response)
    if found is None:
        return None
    return (found.boxes[-1] if found.boxes else next(iter(sentences(found)), None)) or None


def sentences(found: Final) -> list[str]:
    """Return the whole texts that may be the answer without a box: a passage, and its first sentence if it is said."""
    first = _SENTENCE.split(found.passage)[0] if found.said else found.passage
    return list(dict.fromkeys(text.strip(" *_`\"'") for text in (first, found.passage) if text.strip()))


def formula(found: Final, listed: bool) -> str | None:
    """Return the formula or number that is the answer without a box.

    Args:
        found: Where the answer stands.
        listed: Whether several joined by commas, `and` or `or` are one answer.

    Returns:
        The first one after "the answer is", or else the response's last one; None if there is none.
    """
    text = found.passage if found.said else found.before
    spans = list(_SPANS.finditer(text))
    if not spans:
        return None
    run = [spans[0]] if found.said else [spans[-1]]
    rest = spans[1:] if found.said else spans[-2::-1]
    for span in rest if listed else []:
        gap = text[run[-1].end() : span.start()] if found.said else text[span.end() : run[-1].start()]
        if not _JOINS.fullmatch(gap):
            break
        run.append(span)
    inner = [next(part for part in span.groups() if part is not None).strip() for span in run]
    return ", ".join(inner if found.said else inner[::-1])


def letter(found: Final) -> str | None:
    """Return the letter with which the passage begins, if it is one capital alone, as in `(C), because`."""
    match = _LETTER.match(found.passage)
    return match[1] if match else None
