"""Rewards of reinforcement learning: TRL's signature, the default, and how a user's own is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, update_wrapper, wraps
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from rlgen.errors import StudyError
from rlgen.imports import working_directory_on_path
from rlgen.verifiers import DEFAULT, load_verifier

Completion = str | Sequence[dict[str, Any]]
"""Text, or a conversation whose last message is the model's."""
Reward = Callable[..., list[float]]
"""`reward(prompts=, completions=, **columns)`: one number a completion; columns are the problems' fields."""


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
    """The function that `package.module:function` names; `final_answer` judges by the study's `verifier`.

    Modules of the working directory are found too, after installed ones. Raises StudyError if the function
    cannot be imported.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise StudyError(f"reward: `{name}` is not of the form package.module:function")
    try:
        with working_directory_on_path():
            found = getattr(import_module(module), function)
    except ImportError as error:
        raise StudyError(
            f"reward: `{name}` cannot be imported ({error}); start from the folder that holds it, or install it"
        ) from None
    except AttributeError:
        raise StudyError(f"reward: module `{module}` has no `{function}`") from None
    if not callable(found):
        raise StudyError(f"reward: `{name}` is not a function")
    if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in signature(found).parameters.values()):
        raise StudyError(f"reward: `{name}` must take `**columns`, as it is given prompts, completions and more")
    if found is final_answer:
        load_verifier(verifier)  # one that cannot be had is said before training
        found = update_wrapper(partial(final_answer, verifier=verifier), final_answer)
    return _checked(name, found)


def _checked(name: str, reward: Reward) -> Reward:
    """The reward, held to one number a completion."""

    @wraps(reward)
    def call(*args: Any, **columns: Any) -> list[float]:
        found = reward(*args, **columns)
        wanted = len(columns["completions"])
        if not isinstance(found, list) or len(found) != wanted:
            raise StudyError(
                f"reward: `{name}` must return a list of {wanted} numbers, one a completion; got {found!r}"
            )
        return found

    return call


def _text(completion: Completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
