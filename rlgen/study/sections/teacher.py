"""Who writes the solutions that SFT learns, if they do not come with the problems."""

from __future__ import annotations

from typing import Literal

from rlgen.study.sections.common import NonNegative, PositiveInt, Share
from rlgen.study.sections.models import AnyModel


class Teacher(AnyModel):
    """A stronger model, whose right solutions take the place of those that came with the problems.

    Problems that it does not solve leave every arm.
    """

    engine: Literal["transformers", "vllm"] = "transformers"
    """What it writes with. vLLM must be installed; its solutions are not the same bytes on every run."""
    prompt: str = "{problem}"
    """What the teacher is asked: text with the field `{problem}`; braces that are text are doubled."""
    chat: bool = True
    """Whether it is asked by its tokenizer's chat template, or left to continue the prompt."""
    tries: PositiveInt = 4
    """Solutions sampled of a problem at most; the first right one is taken."""
    temperature: NonNegative = 0.6
    """Sampling temperature; 0 is greedy."""
    top_p: Share = 0.95
    """Only the likeliest tokens that have this probability together are sampled."""
    max_new_tokens: PositiveInt = 16384
    """Longest solution, in its own tokens; one that has not ended by then is not taken."""
    batch_size: PositiveInt = 32
    """Problems asked together: the unit of resuming."""
