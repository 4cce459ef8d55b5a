"""How far a model's answers depend on what shares their batch, where its precision makes them (METHOD: evaluation).

Every answer has random numbers of its own, so in exact arithmetic its batch would not matter. In bfloat16 or float16 a
sum that is made in another order differs in its last bits, which are large enough to change a token. This module asks
a small sample of the items again, in other batches, and counts the answers that differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from rlgen.evaluation.harness import Runner

ANSWERS = 32
"""Most answers that are compared. They are spread evenly over the tasks; only the first sample of an item counts."""
STEPS = 4096
"""Tokens that are generated one after the other, at most, unless a single batch takes more: long answers are asked
again in larger batches, so that this never costs more time than a few of the evaluation's own."""
OTHER = 8
"""Batch size of the second answers where the first ones were alone."""
EXACT = ("float32", "float64", "unknown")
"""Precisions that are not measured: rounding changes next to no answer there."""


def batch_dependence(runner: Runner, answers: Mapping[str, pd.DataFrame], seeds: Mapping[str, int]) -> dict[str, Any]:
    """Ask a sample of the items again in other batches, and compare the answers.

    Args:
        runner: The model, with all tasks.
        answers: By task, the frame of all answers, in the order of the items.
        seeds: By task, the seed that its answers were given with.

    Returns:
        `dtype`; `compared`, the number of answers; `different`, those whose text (of a multiple choice, whose choice)
        differs; `right_changed`, those that are right in one batch only; `batch_size`, by task, of the second answers.
    """
    chosen = _sample(answers)
    found: dict[str, Any] = {"dtype": runner.precision, "compared": 0, "different": 0, "right_changed": 0}
    sizes = {}
    for task, first in chosen.items():
        sizes[task] = _size(len(first), runner.max_new_tokens(task), runner.batch_size)
        with runner.in_batches_of(sizes[task]):
            items = {task: first["item"].tolist()}
            second = runner.run([task], items, samples=1, seed=seeds[task])
        first, second = (frame.set_index("item") for frame in (first, second))
        compared = "answer" if first["log_likelihoods"].notna().all() else "response"
        found["compared"] += len(first)
        found["different"] += int((first[compared] != second[compared].reindex(first.index)).sum())
        found["right_changed"] += int((first["right"] != second["right"].reindex(first.index)).sum())
    return {**found, "batch_size": sizes}


def _sample(answers: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Choose rows of first samples, evenly spread over the tasks and over each task's items.

    Of items with the same prompt that are answered freely, only the first is taken: random numbers follow from how
    often a prompt was asked.
    """
    each, more = divmod(ANSWERS, len(answers))
    chosen = {}
    for place, (task, frame) in enumerate(answers.items()):
        first = frame[frame["sample"] == frame["sample"].min()]
        first = first[first["log_likelihoods"].notna() | ~first["prompt"].duplicated()]
        count = min(len(first), max(1, each + (place < more)))
        chosen[task] = first.iloc[np.linspace(0, len(first) - 1, count).round().astype(int)]
    return chosen


def _size(count: int, new_tokens: int, usual: int | None) -> int:
    """Choose the batch size of the second answers: as small as the limit of steps allows, and not the usual one."""
    if usual == 1:
        return min(OTHER, count)
    size = max(1, math.ceil(count * new_tokens / STEPS))
    return max(1, min(size, math.ceil(count / 2), count if usual is None else usual - 1))
