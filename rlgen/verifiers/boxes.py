"""Boxes of a text: `\\boxed{...}` and its like (docs/answers.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_BOX = re.compile(r"\\(?:boxed|fbox|framebox|bbox)(?![A-Za-z])")
_OPTIONS = re.compile(r"\s*(?:\[[^\]\n]*\]\s*){0,2}")
_BARE = re.compile(r"[^\s${}\\,;]+|\\[A-Za-z]+")
_RETRACTS = re.compile(
    r"\b(?:no|not|nope|wait|but|actually|instead|rather|sorry|hmm+|oops|mistake\w*|wrong|wrongly|correct\w*|incorrect\w*"
    r"|off|scratch|retract\w*|revis\w*|should|however|fact|mean|meant|error|then|later|first|finally|step|fix\w*)\b",
    re.IGNORECASE,
)
_SENTENCE_ENDS = re.compile(r"[.!?](?=[\s$)]|\\[\])]|$)|\n")
_CONNECTS = re.compile(
    r"(?:[\s$,;&*\-{}]|\\[()\[\],;\\]|\\q?quad|\\text|\\(?:mbox|textrm)|\b(?:and|or|also|as well as)\b"
    r"|[A-Za-z](?:_\{?\w+\}?)?\s*=)*"
)


@dataclass(frozen=True)
class Box:
    """One box; boxes inside it belong to its content."""

    start: int
    end: int
    content: str | None
    """None if the text ends, or its braces do not, before the box does."""


def boxes(text: str) -> list[Box]:
    """Return the outermost boxes of a text, in order."""
    closing = closing_braces(text)
    found: list[Box] = []
    for match in _BOX.finditer(text):
        if found and found[-1].content is not None and match.start() < found[-1].end:
            continue
        options = _OPTIONS.match(text, match.end())
        at = options.end() if options else match.end()
        if text[at : at + 1] == "{":
            end = closing.get(at)
            box = (
                Box(match.start(), len(text), None) if end is None else Box(match.start(), end + 1, text[at + 1 : end])
            )
        elif bare := _BARE.match(text, at):
            box = Box(match.start(), bare.end(), bare[0])
        else:
            box = Box(match.start(), len(text), None)
        found.append(box)
    return found


def last_boxes(text: str) -> list[Box] | None:
    """Return the boxes that answer together, the last one last.

    Boxes answer together if they stand in one sentence that takes none of them back. Callers take the last one alone
    unless the gold is a list.

    Returns:
        Complete boxes; an empty list if there is no box; None if the answer was cut off inside a box.
    """
    found = boxes(text)
    complete = [box for box in found if box.content is not None]
    if found and not complete:
        return None
    for box in found:
        given_up = "\n" in text[box.start : complete[-1].start] if complete else False
        if box.content is None and not (box.start < complete[-1].start and given_up):
            return None
    run = complete[-1:]
    for later, earlier in pairwise(reversed(complete)):
        if not _together(text[earlier.end : later.start]):
            break
        run.append(earlier)
    return run[::-1]


def _together(between: str) -> bool:
    """Return whether the text between two boxes joins them."""
    if _CONNECTS.fullmatch(between) and between.count("\n") <= 1:
        return True
    return not _SENTENCE_ENDS.search(between) and not _RETRACTS.search(between)


def closing_braces(text: str) -> dict[int, int]:
    """Return the place of the closing brace by that of each opening one that is closed; escaped braces are text."""
    found, waiting, escaped = {}, [], False
    for place, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "{":
            waiting.append(place)
        elif character == "}" and waiting:
            found[waiting.pop()] = place
    return found


def unbox(text: str) -> str:
    """Return a text without the commands of its boxes; what they hold stays, in its braces."""
    return _BOX.sub("", text)
