"""What a verifier is, and what it says of a response."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Judgement:
    """The verdict on one response."""

    extracted: str | None
    """The final answer that the response gives; None if it gives none."""
    right: bool
    """Whether that answer is the right one."""


class Verifier:
    """Judges responses against right answers ("golds")."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The name by which a study chooses it."""

    def __call__(self, response: str, gold: str) -> Judgement:
        """Judge a response.

        Args:
            response: All that the model wrote after the prompt.
            gold: The right answer.

        Returns:
            The final answer that was read from the response, and whether it is right.
        """
        raise NotImplementedError

    def unverifiable(self, gold: str) -> str | None:
        """Return why no response can be judged reliably against a gold, or None if one can.

        A gold is unverifiable if a response that repeats it is judged wrong, or one that nearly repeats it is judged
        right.
        """
        del gold
        return None

    def is_verifiable(self, gold: str) -> bool:
        """Return whether responses can be judged reliably against a gold."""
        return self.unverifiable(gold) is None
