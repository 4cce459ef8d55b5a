"""What a reward returned, as numbers that training can use: converted, checked, and refused by name."""

from __future__ import annotations

import asyncio
import inspect
import math
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import wraps
from numbers import Real
from pathlib import Path
from typing import Any

from rlgen.errors import StudyError
from rlgen.launch import gather

Rewards = list[float | None]
"""One value per completion; None where the reward abstains."""
Reward = Callable[..., Rewards]

LARGEST = 1e18
"""Largest size of a reward. TRL squares rewards in float32, which ends at 3.4e38."""
_SHOWN = 80
"""Longest text of a refused value, in characters."""


def checked(name: str, reward: Callable[..., Any]) -> Reward:
    """Wrap a reward so that training never receives anything but one finite number, or None, per completion.

    The wrapper awaits a reward that is a coroutine function. Where several processes train together, all of them must
    call it together: if the reward of one process fails, all raise the same error.

    Args:
        name: What the study calls the reward, `package.module:function`.
        reward: The function, called as TRL calls it: with keyword arguments.

    Returns:
        A function with the same arguments that returns a list of floats and Nones. It raises StudyError if the reward
        raises an exception, returns another number of values than there are completions, returns a value that is not
        a finite number, or abstains (None) on every completion of a step.
    """
    wait_for = _Waiter()

    @wraps(reward)
    def call(*args: Any, **columns: Any) -> Rewards:
        try:
            values = _values(name, wait_for(reward(*args, **columns)), columns)
            error = None
        except StudyError as found:
            values, error = [], str(found)
        except (Exception, SystemExit) as found:
            values, error = [], _told(name, reward, found, columns)
        states = gather((error, any(value is not None for value in values)))
        _raise_first([error for error, _ in states])
        if not any(scored for _, scored in states):
            raise StudyError(
                f"{_place(name, columns)}: returned None for every completion; None means that the reward cannot judge "
                "a completion, and with no reward at all there is nothing to learn from; return numbers"
            )
        return values

    call.__name__ = getattr(reward, "__name__", name.rpartition(":")[2])  # TRL names the reward's curve by it
    return call


class _Waiter:
    """Waits for results of coroutine functions, in one event loop for all steps: clients may be kept between them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, found: Any) -> Any:
        """Return the result, or what was given if there is nothing to wait for."""
        if not inspect.isawaitable(found):
            return found
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(_result(found))


async def _result(found: Any) -> Any:
    return await found


def _raise_first(errors: Sequence[str | None]) -> None:
    """Raise the first process' error, in every process."""
    for process, error in enumerate(errors):
        if error is not None:
            raise StudyError(error if len(errors) == 1 else f"{error} (process {process} of {len(errors)})")


def _values(name: str, found: Any, columns: dict[str, Any]) -> Rewards:
    """Return the reward's values as floats and Nones. Raises StudyError if they are anything else."""
    wanted = len(columns["completions"])
    where = _place(name, columns)
    rule = f"must return a list of {wanted} numbers, one a completion"
    dimensions = getattr(found, "ndim", None)
    if isinstance(found, (list, tuple)):
        values = list(found)
    elif dimensions == 1 and hasattr(found, "tolist"):  # an array, a tensor or a pandas Series
        values = (found.detach() if hasattr(found, "detach") else found).tolist()
    elif dimensions is not None and hasattr(found, "shape"):
        raise StudyError(f"{where}: {rule}; got {type(found).__name__} of shape {list(found.shape)}")
    else:
        raise StudyError(f"{where}: {rule}; got {_shown(found)}, which is {_kind(found)}")
    if len(values) != wanted:
        raise StudyError(f"{where}: {rule}; got {len(values)} in {_shown(values)}")
    numbers: Rewards = []
    wrong: list[tuple[int, Any, str]] = []
    for place, value in enumerate(values):
        number, problem = _number(value)
        numbers.append(number)
        if problem:
            wrong.append((place, value, problem))
    if wrong:
        place, value, problem = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise StudyError(
            f"{where}: for completion {place + 1} of {wanted}{more} it returned {_shown(value)}, which {problem}; "
            "return a finite number, or None where the reward cannot judge a completion"
        )
    return numbers


def _number(value: Any) -> tuple[float | None, str | None]:
    """Return a value as a float, and what is wrong with it, if anything is. None stays None."""
    if value is None:
        return None, None
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a scalar of numpy or torch
        value = value.item()
    if not isinstance(value, (Real, Decimal)):
        return None, f"is {_kind(value)} and not a number"
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None, "is not a finite number"
    if not math.isfinite(number):
        return None, "is not a finite number"
    if abs(number) > LARGEST:
        return None, f"is larger than {LARGEST:g}, which float32 arithmetic cannot hold"
    return number, None


def _kind(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _shown(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # repr of a user's own class
        text = object.__repr__(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _place(name: str, columns: dict[str, Any]) -> str:
    """Name the reward and the optimiser step that its completions are for."""
    state = columns.get("trainer_state")
    return f"reward: `{name}`" if state is None else f"reward: `{name}`, step {state.global_step + 1}"


def _told(name: str, reward: Callable[..., Any], error: BaseException, columns: dict[str, Any]) -> str:
    """Say what exception a reward raised, in which line, and which columns it was given."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    names = ", ".join(columns)
    return f"{_place(name, columns)}: raised {what}, in {_line(reward, error)}; the columns available are: {names}"


def _line(reward: Callable[..., Any], error: BaseException) -> str:
    """Return file, line and text of the user's own innermost line of code."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the wrapper's
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    libraries += [str(Path(__file__).parents[1]), str(Path(asyncio.__file__).parent), "<"]
    try:
        file, first = inspect.getsourcefile(reward), inspect.getsourcelines(reward)[1]
    except (OSError, TypeError):  # of a function that is not written in a file
        file, first = None, 0
    own = [frame for frame in frames if frame.filename == file or not frame.filename.startswith(tuple(libraries))]
    found = (own or frames)[-1:]
    if found:
        return f"{found[0].filename}, line {found[0].lineno}: `{found[0].line}`"
    return f"the call of {file}, line {first}" if file else "its call"
