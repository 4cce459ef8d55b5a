"""Rewards of reinforcement learning: the default one, and how a user's own is found.

A reward has TRL's signature: `reward(prompts=, completions=, **columns)` returns one number per completion. The columns
are the problems' fields and what TRL adds. It may return None for a completion that it cannot judge: TRL leaves such
completions out of their group's mean and gives them no advantage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, update_wrapper
from inspect import Parameter, signature
from typing import Any

from rlgen.errors import StudyError
from rlgen.imports import load_function
from rlgen.posttrain.reward_values import Reward, checked
from rlgen.verifiers import DEFAULT, load_verifier

Completion = str | Sequence[dict[str, Any]]
"""Text, or a conversation whose last message is the model's."""


def final_answer(
    completions: Sequence[Completion], answer: Sequence[str], verifier: str = DEFAULT, **_: Any
) -> list[float]:
    """Return 1 for each right final answer, else 0, and no other signal (METHOD: the controlled comparison).

    Args:
        completions: What the model wrote.
        answer: The right answers.
        verifier: What judges them; the GRPO stage passes the study's.
    """
    judge = load_verifier(verifier)
    return [float(judge(_text(completion), gold).right) for completion, gold in zip(completions, answer, strict=True)]


def load_reward(name: str, verifier: str = DEFAULT) -> Reward:
    """Import a reward by its name, and check whatever it returns.

    Modules of the working directory are found too, after installed ones.

    Args:
        name: `package.module:function`.
        verifier: What `final_answer` judges by: the study's.

    Returns:
        The reward, wrapped by `reward_values.checked`.

    Raises:
        StudyError: If the function cannot be imported, or does not take `**columns`.
    """
    found = load_function(name, "reward")
    if not _takes_columns(found):
        raise StudyError(f"reward: `{name}` must take `**columns`, as it is given prompts, completions and more")
    if found is final_answer:
        load_verifier(verifier)  # one that cannot be had is said before training
        found = update_wrapper(partial(final_answer, verifier=verifier), final_answer)
    return checked(name, found)


def _takes_columns(function: Callable[..., Any]) -> bool:
    try:
        parameters = signature(function).parameters.values()
    except ValueError:  # of a function that is not written in Python
        return True
    return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)


def _text(completion: Completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
