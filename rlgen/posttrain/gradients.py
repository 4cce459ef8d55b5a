"""Whether an arm has a gradient at all: where it is exactly zero nothing is learnt, and the loss looks fine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIRST = 10
"""Steps after which a run warns if every gradient so far was exactly zero. A shorter run warns at its end."""
GRADIENT, REWARD, SPREAD = "grad_norm", "reward", "reward_std"
"""Columns of the curves: the gradient's norm, and the rewards' mean and standard deviation over a step."""


def zero_gradients(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count the steps whose gradient was exactly zero.

    Args:
        rows: The logged values, one mapping per step, in the order of the steps. Rows without a gradient do not count.

    Returns:
        `steps`: steps with a known gradient; `zero`: those whose gradient was exactly zero; `first_zero`: how many of
        the first steps, one after the other, had none; `nothing_at_first`: whether those were `FIRST` or all. Where
        the steps have rewards, also `reward` and `reward_std` of the first zero steps: the mean and the standard
        deviation of the rewards, each averaged over the steps.
    """
    known = [row for row in rows if row.get(GRADIENT) is not None]
    zero = [float(row[GRADIENT]) == 0.0 for row in known]
    first = next((place for place, none in enumerate(zero) if not none), len(zero))
    nothing = bool(zero) and first >= min(FIRST, len(zero))
    found: dict[str, Any] = {"steps": len(zero), "zero": sum(zero)}
    found |= {"first_zero": first, "nothing_at_first": nothing}
    for column in (REWARD, SPREAD):
        values = [float(row[column]) for row in known[:first] if row.get(column) is not None]
        values = [value for value in values if value == value]  # a step may have too few rewards to have a spread
        if values:
            found[column] = sum(values) / len(values)
    return found


def learnt_nothing(name: str, found: Mapping[str, Any]) -> str:
    """Say that the first gradients of `name` were zero, and what the likely causes are.

    Args:
        name: What the sentence is about, for instance "arm `rl`".
        found: What `zero_gradients` returned.
    """
    steps = f"{found['first_zero']} of {found['steps']} steps"
    said = f"{name}: the gradient was exactly zero in each of its first {steps}, so nothing was learnt in them"
    if REWARD not in found:
        return f"{said}; likely causes: no token that the loss is taken on, or no weight that is trained"
    spread = f", standard deviation {found[SPREAD]:.4g}" if SPREAD in found else ""
    return (
        f"{said}; rewards had mean {found[REWARD]:.4g}{spread}; likely causes: every completion of a prompt earns the "
        "same reward (the problems are too hard or too easy for the model, completions are cut off at "
        "max_completion_length before they answer, or the reward does not read them), or the reward abstains (None) on "
        "nearly all"
    )
