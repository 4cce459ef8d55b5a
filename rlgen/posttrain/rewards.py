"""Rewards of reinforcement learning: TRL's signature, the default, and how a user's own is found."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from rlgen.data.answers import is_right
from rlgen.errors import StudyError

Completion = str | Sequence[dict[str, Any]]
"""Text, or a conversation whose last message is the model's."""
Reward = Callable[..., list[float]]
"""`reward(prompts=, completions=, **columns)`: one number a completion; columns are the problems' fields."""


def final_answer(
    prompts: Sequence[Completion], completions: Sequence[Completion], answer: Sequence[str], **_: Any
) -> list[float]:
    """1 for a right final answer, else 0, and no other signal (METHOD: the controlled comparison)."""
    rows = zip(prompts, completions, answer, strict=True)
    return [float(is_right(_text(prompt), _text(completion), gold)) for prompt, completion, gold in rows]


def load_reward(name: str) -> Reward:
    """The function that `package.module:function` names.

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


@contextlib.contextmanager
def working_directory_on_path() -> Iterator[None]:
    """While the block lasts, modules of the working directory are found, after installed ones."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _text(completion: Completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
