"""Which part of a response is its answer, and which is thinking (docs/answers.md)."""

from __future__ import annotations

import re

_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|reason|reflection|analysis|scratchpad|\w{1,8}:think(?:ing)?)"
_TAG = re.compile(
    rf"<\s*(?P<slash>/?)\s*{_NAMES}\s*>"
    r"|<\|(?P<edge>begin|start|end)_of_(?:thought|thinking|reasoning)\|>"
    r"|<\|(?P<end>/?)think(?:ing)?\|>"
    r"|\[(?P<bracket>/?)THINK\]"
    r"|◁(?P<triangle>/?)think▷"
    r"|<\|channel\|>(?P<channel>\w+)\s*<\|message\|>",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"<\s*answer\s*>(.*?)(?:<\s*/\s*answer\s*>|\Z)", re.IGNORECASE | re.DOTALL)


def after_thinking(response: str) -> str | None:
    """Return what follows the last closed thinking span: all of a response without any.

    Args:
        response: All that the model wrote. A closing tag without an opening one ends thinking that the prompt opened.

    Returns:
        The text after the last closing tag; None if a span is still open at the end, as nothing is answered then.
    """
    depth = end = 0
    for tag in _TAG.finditer(response):
        if tag["channel"]:  # a message of its own kind: `final` ends all thinking
            closes = tag["channel"].lower() == "final"
            depth = 0 if closes else 1
        else:
            marks = (tag["slash"], tag["end"], tag["bracket"], tag["triangle"])
            closes = "/" in marks or (tag["edge"] or "").lower() == "end"
            depth = max(depth - 1, 0) if closes else depth + 1
        if closes:
            end = tag.end()
    return None if depth else response[end:]


def tagged(text: str) -> str:
    """Return the inside of the last `<answer>` span, or the whole text if it has none."""
    found = list(_ANSWER.finditer(text))
    return found[-1][1] if found else text
