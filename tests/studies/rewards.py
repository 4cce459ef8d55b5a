"""A user-supplied reward, as a study may name one: `tests.studies.rewards:contains_asked_word`."""

import re
from typing import Any


def contains_asked_word(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """1 if the completion has the word that the prompt asks for, its last; else 0. Parts of words do not count."""
    asked = [re.findall(r"\w+", prompt)[-1] for prompt in prompts]
    pairs = zip(asked, completions, strict=True)
    return [float(re.search(rf"\b{word}\b", text, re.IGNORECASE) is not None) for word, text in pairs]
