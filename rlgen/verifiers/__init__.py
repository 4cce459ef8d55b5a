"""Verifiers: whether a response's final answer is right. Rewards, teacher, filters and evaluations share them.

    >>> from rlgen.verifiers import load_verifier
    >>> load_verifier("math")("So it is $\\\\boxed{\\\\frac{1}{2}}$.", "0.5").right
    True

`docs/answers.md` says what the final answer is and how each verifier compares it. Nothing here imports torch.
"""

from __future__ import annotations

from functools import cache

from rlgen.verifiers.judgement import Judgement, Verifier

__all__ = ["BUILT_IN", "DEFAULT", "Judgement", "Verifier", "load_verifier"]

DEFAULT = "math"
"""The verifier of a study that names none."""
BUILT_IN = ("math", "text", "choice", "number")
"""Verifiers that are known by one word."""


@cache
def load_verifier(name: str = DEFAULT) -> Verifier:
    """Return the verifier of a name.

    Args:
        name: One of `BUILT_IN`, or the user's own `package.module:function`. Modules of the working directory are
            found after installed ones.

    Raises:
        StudyError: There is no such verifier, or it cannot be imported.
    """
    if name == "math":
        from rlgen.verifiers.mathematics import Mathematics

        return Mathematics(name)
    if name in BUILT_IN:
        from rlgen.verifiers.simple import SIMPLE

        return SIMPLE[name](name)
    from rlgen.verifiers.own import Own

    return Own(name)
