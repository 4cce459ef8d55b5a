"""A verifier of the user's own: a function of a response and a gold."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from rlgen.errors import StudyError
from rlgen.imports import working_directory_on_path
from rlgen.verifiers.final import said
from rlgen.verifiers.judgement import Judgement, Verifier

_SHOWN = 200


class Own(Verifier):
    """Calls `package.module:function`, which may return a bool, (extracted, right) or a Judgement."""

    def __init__(self, name: str) -> None:
        """Import the function. Raises StudyError if it cannot be imported."""
        super().__init__(name)
        self._function = _load(name)

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


def _load(name: str) -> Callable[[str, str], Any]:
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise StudyError(
            f"verifier: there is no `{name}`; use math, text, choice or number, or your own package.module:function"
        )
    try:
        with working_directory_on_path():
            found: Callable[[str, str], Any] = getattr(import_module(module), function)
    except AttributeError:
        raise StudyError(f"verifier: module `{module}` has no `{function}`") from None
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise StudyError(
            f"verifier: `{name}` cannot be imported ({type(error).__name__}: {error}); start from the folder that "
            "holds it, or install it"
        ) from None
    if not callable(found):
        raise StudyError(f"verifier: `{name}` is not a function; name one of (response, gold)")
    return found


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
