"""What the harness makes of generated answers, and what an accuracy is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlgen.errors import StudyError
from rlgen.verifiers import load_verifier

_Z = 1.959964
"""Normal quantile of a 95% interval."""


def process_results(doc: Mapping[str, Any], results: Sequence[str | list[str]]) -> dict[str, float]:
    """Return an item's accuracy over its samples, judged by `math`: the harness's hook, if it runs a task alone."""
    return _accuracy("math", doc, results)


def process_results_text(doc: Mapping[str, Any], results: Sequence[str | list[str]]) -> dict[str, float]:
    """Return an item's accuracy as `process_results`, judged by `text`."""
    return _accuracy("text", doc, results)


def process_results_choice(doc: Mapping[str, Any], results: Sequence[str | list[str]]) -> dict[str, float]:
    """Return an item's accuracy as `process_results`, judged by `choice`."""
    return _accuracy("choice", doc, results)


def process_results_number(doc: Mapping[str, Any], results: Sequence[str | list[str]]) -> dict[str, float]:
    """Return an item's accuracy as `process_results`, judged by `number`."""
    return _accuracy("number", doc, results)


def process_results_miniature(doc: Mapping[str, Any], results: Sequence[str | list[str]]) -> dict[str, float]:
    """Return an item's accuracy as `process_results`, judged by the miniature's own verifier."""
    return _accuracy("rlgen.data.miniature:judge", doc, results)


def process_results_own(doc: Mapping[str, Any], results: Sequence[str | list[str]]) -> dict[str, float]:
    """Refuse to judge: an artifact never says which code of the user's is run."""
    raise StudyError(
        "this task's answers are judged by a verifier of the study's own, which a task's file does not name; "
        "run `rlgen evaluate` with the study's settings"
    )


def _accuracy(verifier: str, doc: Mapping[str, Any], results: Sequence[str | list[str]]) -> dict[str, float]:
    responses = [results[0]] if isinstance(results[0], str) else results[0]
    right = [load_verifier(verifier)(response, doc["answer"]).right for response in responses]
    return {"acc": sum(right) / len(right)}


def accuracy(right: ArrayLike, items: ArrayLike) -> dict[str, float | int]:
    """Accuracy with a 95% interval over items, {value, n, low, high}; n is the number of items.

    Wilson's interval. Samples of one item are not independent, so the number of trials in it is the effective
    one, p (1 - p) over the variance of the mean of the items' accuracies (Kish's design effect): n for one sample an
    item, where the interval is plain Wilson.
    """
    _, index = np.unique(np.asarray(items), return_inverse=True)
    counts = np.bincount(index)
    per_item = np.bincount(index, weights=np.asarray(right, dtype=np.float64)) / counts
    n = len(per_item)
    value = float(per_item.mean())
    variance = float(per_item.var()) / n  # p (1 - p) / n for one sample an item, whose trials are then just n
    trials = value * (1 - value) / variance if variance > 0 else float(n)
    trials = min(max(trials, 1.0), float(counts.sum()))
    low, high = wilson(value, trials)
    return {"value": value, "n": n, "low": float(low), "high": float(high)}


def paired_test(first: ArrayLike, second: ArrayLike, single: bool) -> dict[str, Any]:
    """Whether two models are right equally often, tested on the items that both answered.

    `first` and `second` are the items' accuracies, [items]. Where each is one sample (`single`), McNemar's exact test:
    of the items that one model alone has right, as many should be the first's as the second's. Where items have
    several samples, Durkalski's form of it for clusters (Statistics in Medicine 22, 2003, 2417-2428): an item counts
    by the difference d of its accuracies, and (sum d)^2 / sum d^2 is chi-square with one degree of freedom; for one
    sample an item it is McNemar's own statistic.

    Gives {difference, n, better, worse, p, exact}: mean difference, items, and on how many of them the first model
    has the higher and the lower accuracy.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    p = sign_test(better, worse) if single else _clustered(difference)
    found = {"difference": float(difference.mean()), "n": len(difference)}
    return {**found, "better": better, "worse": worse, "p": p, "exact": single}


def sign_test(better: int, worse: int) -> float:
    """Two-sided probability of a split at least as uneven, each side as likely."""
    total = better + worse
    ways = term = 1  # whole numbers of any size: exact
    for count in range(min(better, worse)):
        term = term * (total - count) // (count + 1)
        ways += term
    return min(1.0, float(2 * ways / (1 << total)))


def _clustered(difference: NDArray[np.float64]) -> float:
    squares = float((difference**2).sum())
    if squares == 0:
        return 1.0
    return math.erfc(math.sqrt(float(difference.sum()) ** 2 / squares / 2))


def wilson(value: ArrayLike, trials: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's 95% interval for proportions, of any shape, seen in so many independent trials."""
    share = np.asarray(value, dtype=np.float64)
    middle = (trials * share + _Z**2 / 2) / (trials + _Z**2)
    half = _Z * np.sqrt(trials * share * (1 - share) + _Z**2 / 4) / (trials + _Z**2)
    return np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)  # it lies inside, but for rounding
