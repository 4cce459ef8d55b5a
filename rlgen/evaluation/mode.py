"""In which of two modes an answer is given, by a function that the study names: thinking or guessing, for instance."""

from __future__ import annotations

import pandas as pd

from rlgen.errors import StudyError
from rlgen.imports import load_function


class Mode:
    """`package.module:function`, a function of (prompt, response) that says whether the answer is in the mode."""

    def __init__(self, name: str | None) -> None:
        """Import the function. Raises StudyError if it cannot be imported."""
        self._name = name
        self._decide = load_function(name, "interventions.mode") if name else None

    def of(self, frame: pd.DataFrame) -> pd.Series[bool]:
        """Return for every row whether its response is in the mode: nullable, and null without a function.

        Raises:
            StudyError: The function raises an error.
        """
        if self._decide is None:
            return pd.Series(pd.NA, index=frame.index, dtype="boolean")
        pairs = zip(frame["prompt"], frame["response"], strict=True)
        return pd.Series([self._of_one(p, r) for p, r in pairs], index=frame.index, dtype="boolean")

    def _of_one(self, prompt: str, response: str) -> bool:
        try:
            return bool(self._decide and self._decide(prompt, response))
        except (Exception, SystemExit) as error:
            raise StudyError(
                f"interventions.mode: `{self._name}` raises {type(error).__name__}: {error}, for the response "
                f"{response[:200]!r}; mend the function"
            ) from error
