"""A user-supplied reward, as a study may name one: `tests.studies.rewards:contains_asked_word`."""

from typing import Any


def contains_asked_word(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """1 if the completion contains the word that the prompt asks for, its first; else 0."""
    pairs = zip(prompts, completions, strict=True)
    return [float(prompt.split()[0].lower() in completion.lower()) for prompt, completion in pairs]
