"""What earlier jobs took: how far the cost model is off, by rule."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from rlgen.cluster.dag import Job
from rlgen.formats import MANIFEST


def measured_seconds(job: Job) -> float | None:
    """How long a job that is done took; None if that is not known.

    Its benchmark file has all of its last run, start-up included, and nothing of runs that were killed before; its
    manifest has all runs, without start-up. A job of submitit's waited in a queue meanwhile: its manifest alone counts.
    """
    if job.needed:  # what it took before was with other settings, or is not to be trusted
        return None
    found = [_by_manifest(job), None if job.requeued else _by_benchmark(job)]
    return max((seconds for seconds in found if seconds), default=None)


def _by_manifest(job: Job) -> float | None:
    manifest = Path(job.output[0]) / MANIFEST
    if not manifest.is_file():
        return None
    return float(json.loads(manifest.read_text())["wall_seconds"])


def _by_benchmark(job: Job) -> float | None:
    if job.benchmark is None or not job.benchmark.is_file():
        return None
    with job.benchmark.open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    try:
        seconds = float(rows[-1]["s"])
    except (IndexError, KeyError, ValueError):  # an empty file, or `-` of a job too short to be measured
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def factors(jobs: Iterable[tuple[Job, float]]) -> dict[str, float]:
    """By rule: what its jobs took, as a multiple of what the model says they take; `jobs` come with the latter.

    A rule none of whose jobs has been measured is not among them.
    """
    took: dict[str, float] = defaultdict(float)
    expected: dict[str, float] = defaultdict(float)
    for job, seconds in jobs:
        found = measured_seconds(job)
        if found is not None:
            took[job.rule] += found
            expected[job.rule] += seconds
    return {rule: took[rule] / expected[rule] for rule in took}


def overall(by_rule: dict[str, float]) -> float:
    """The factor of rules that have not been measured: the geometric mean of those that have, 1 if none has."""
    logs = [math.log(factor) for factor in by_rule.values()]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0
