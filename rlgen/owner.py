"""Who is at work in a partial folder: a process of this machine, or a SLURM job on another one.

What is noted is a plain file in the folder, renamed into its place: file systems that have no locks, or whose locks lie
(Lustre without `-o flock`), need none.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from typing import Any

import psutil

from rlgen import slurm


def this_process() -> dict[str, Any]:
    """This process, so that it can be told from a later one of the same number, and its job, from other machines."""
    return {**process_of(os.getpid()), "job": slurm.own_job()}


def process_of(pid: int) -> dict[str, Any]:
    """A process of this machine, as `this_process` tells of its own, without a job; of one that has ended, no birth."""
    born = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        born = psutil.Process(pid).create_time()
    return {"host": platform.node(), "pid": pid, "born": born}


def is_here(owner: Mapping[str, Any]) -> bool:
    """Whether it is, or was, a process of this machine."""
    return bool(owner["host"] == platform.node())


def lives(owner: Mapping[str, Any], running: set[str] | None = None) -> bool:
    """Whether an owner may still be at work; `running` are the jobs that are, asked for if not given.

    Of another machine nothing is known but its jobs: without one, its process counts as gone. A job that SLURM started
    again has the number that it had before: an owner with this process' own number has ended.
    """
    if not is_here(owner):
        job = owner.get("job")
        if job is None or job == slurm.own_job():
            return False
        return slurm.active(job) if running is None else job in running
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner["pid"])
        return bool(process.create_time() == owner["born"] and process.status() != psutil.STATUS_ZOMBIE)
    return False
