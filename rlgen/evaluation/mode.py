"""In which of two modes an answer is given, by a function that the study names: thinking or guessing, for instance."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pandas as pd

from rlgen.errors import StudyError
from rlgen.imports import working_directory_on_path


class Mode:
    """`package.module:function`, a function of (prompt, response) that says whether the answer is in the mode."""

    def __init__(self, name: str | None) -> None:
        """Raises StudyError if there is no such function."""
        self._decide = load_mode(name) if name else None

    def of(self, frame: pd.DataFrame) -> pd.Series[bool]:
        """Of every row's response, nullable; null without a function."""
        if self._decide is None:
            return pd.Series(pd.NA, index=frame.index, dtype="boolean")
        pairs = zip(frame["prompt"], frame["response"], strict=True)
        return pd.Series([bool(self._decide(p, r)) for p, r in pairs], index=frame.index, dtype="boolean")


def load_mode(name: str) -> Callable[[str, str], bool]:
    """Return the function of that name, from the working directory too. Raises StudyError if it cannot be loaded."""
    module, _, function = name.partition(":")
    try:
        with working_directory_on_path():
            found: Callable[[str, str], bool] = getattr(import_module(module), function)
    except Exception as error:  # whatever the user's module does when it is imported
        raise StudyError(
            f"interventions.mode: `{name}` cannot be loaded ({type(error).__name__}: {error}); "
            "give package.module:function"
        ) from None
    if not callable(found):
        raise StudyError(f"interventions.mode: `{name}` is not a function; name one of (prompt, response)")
    return found
