"""Made-up jobs, and a DAG of them."""

from pathlib import Path
from typing import Any

from rlgen.cluster.dag import Dag, Job
from rlgen.study import load_study

ROOT = Path(__file__).parents[2]


def job(rule: str, needs: tuple[int, ...] = (), **more: Any) -> Job:
    """A job of one thread, to be run."""
    usual = {
        "wildcards": {}, "output": (rule,), "temporary": False, "benchmark": None, "threads": 1,
        "limit": 60, "gpus": 0, "requeued": False, "needed": True, "reason": "Missing output files",
    }  # fmt: skip
    return Job(rule=rule, needs=needs, **{**usual, **more})


def dag(jobs: list[Job], **limits: int) -> Dag:
    """The jobs as those of the miniature study."""
    return Dag(load_study(ROOT / "config.yaml"), jobs, **limits)
