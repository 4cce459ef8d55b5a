"""A verifier of the user's own: a function of a response and a gold."""

from __future__ import annotations

from typing import Any

from rlgen.errors import StudyError
from rlgen.imports import load_function
from rlgen.verifiers.final import said
from rlgen.verifiers.judgement import Judgement, Verifier

_SHOWN = 200


class Own(Verifier):
    """Calls `package.module:function`, which may return a bool, (extracted, right) or a Judgement."""

    def __init__(self, name: str) -> None:
        """Import the function. Raises StudyError if it cannot be imported."""
        super().__init__(name)
        if ":" not in name:
            raise StudyError(
                f"verifier: there is no `{name}`; use math, text, choice or number, or your own package.module:function"
            )
        self._function = load_function(name, "verifier")

    def __call__(self, response: str, gold: str) -> Judgement:
        """Judge a response, as `Verifier` says.

        Raises:
            StudyError: The function fails, or returns something else.
        """
        try:
            found = self._function(response, gold)
        except (Exception, SystemExit) as error:
            raise StudyError(
                f"verifier `{self.name}`: raises {type(error).__name__}: {error}, for the gold {_shown(gold)} and the "
                f"response {_shown(response)}; mend the function"
            ) from error
        judgement = _judgement(found, response)
        if judgement is None:
            raise StudyError(
                f"verifier `{self.name}`: returns {_shown(found)} for the gold {_shown(gold)}; return True or False, "
                "(extracted text or None, True or False), or a Judgement"
            )
        return judgement


def _judgement(found: Any, response: str) -> Judgement | None:
    """What a function returns, as a Judgement; None if it is none. A bool leaves the reading to rlgen's own rule."""
    if isinstance(found, Judgement):
        extracted, right = found.extracted, found.right
    elif isinstance(found, tuple) and len(found) == 2:
        extracted, right = found
    else:
        extracted, right = said(response), found
    right = right.item() if type(right).__module__ == "numpy" and hasattr(right, "item") else right
    if not isinstance(right, bool) or not (extracted is None or isinstance(extracted, str)):
        return None
    return Judgement(extracted, right)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
