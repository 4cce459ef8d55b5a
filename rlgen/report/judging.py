"""What all verdicts share: their three kinds, their levels, and the tests that they rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Block = Mapping[str, Any]
Verdict = dict[str, Any]

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot tell"
LEVEL = 0.05
EARLY = 0.4
"""Share of training at which features are held against the final ones."""
STABLE = 0.8
"""Of what the split-half null can show."""
QUARTER, HALF = 0.25, 0.5
METHODS = {"sft": "SFT", "grpo": "RL"}
"""The two ways of training that the paper compares, as sentences call them."""


def make(claim: str, verdict: str, statistic: float | None, control: str, n: int, because: str, **rest: Any) -> Verdict:
    """Return a verdict as the summary holds it; `rest` takes the place of the defaults."""
    found = {"claim": claim, "verdict": verdict, "statistic": statistic, "control": control, "n": n, "because": because}
    return {**found, "unit": "features", "low": None, "high": None, "p": None, **rest}


def nothing(claim: str, because: str, **rest: Any) -> Verdict:
    """Return the verdict on a claim of which nothing was measured: it cannot be told, and the reason is given."""
    return make(claim, UNKNOWN, None, "nothing was measured", 0, because, **rest)


def unknown(verdict: Verdict, because: str) -> Verdict:
    """Return a verdict that no longer counts, and why."""
    return {**verdict, "verdict": UNKNOWN, "because": because}


def decided(holds: bool, fails: bool) -> str:
    """Return which of the three it is."""
    return HOLDS if holds else FAILS if fails else UNKNOWN


def joined(*reasons: str | None) -> str:
    """Return the reasons that are there as one text."""
    return "; ".join(reason for reason in reasons if reason)


def share_of(count: int, total: int) -> float:
    """Return a share; 0 of nothing."""
    return count / total if total else 0.0


def proportions_test(count: int, n: int, other: int, m: int) -> float:
    """Return the two-sided p of two shares being equal, by the normal approximation with the pooled share."""
    pooled = share_of(count + other, n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)) if n and m else 0.0
    z = abs(count / n - other / m) / error if error else 0.0
    return math.erfc(z / math.sqrt(2))
