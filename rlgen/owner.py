"""Who is at work in a partial folder: a process of this machine, or a SLURM job on another one.

What is noted is a plain file in the folder, renamed into its place: file systems that have no locks, or whose locks lie
(Lustre without `-o flock`), need none.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import psutil

_ASKING = 30.0
"""Seconds that SLURM may take to answer; it is busy at times."""


def this_process() -> dict[str, Any]:
    """This process, so that it can be told from a later one of the same number, with its SLURM job if it has one."""
    job = os.environ.get("SLURM_JOB_ID")
    born = psutil.Process().create_time()
    return {"host": platform.node(), "pid": os.getpid(), "born": born, **({"slurm_job": job} if job else {})}


def is_here(owner: Mapping[str, Any]) -> bool:
    """Whether it is, or was, a process of this machine."""
    return bool(owner["host"] == platform.node())


def lives(owner: Mapping[str, Any], running: set[str] | None = None) -> bool:
    """Whether an owner is still at work; `running` are the SLURM jobs that are, asked for if not given.

    Of another machine nothing is known but its SLURM jobs: without one, its process counts as gone. A job that SLURM
    started again has the number that it had before: an owner with this process' own number has ended.
    """
    if not is_here(owner):
        job = owner.get("slurm_job")
        if job is None or job == os.environ.get("SLURM_JOB_ID"):
            return False
        return job in (running_jobs() if running is None else running)
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner["pid"])
        return bool(process.create_time() == owner["born"] and process.status() != psutil.STATUS_ZOMBIE)
    return False


def running_jobs() -> set[str]:
    """Numbers of this user's SLURM jobs that run, by one question; none where there is no SLURM or it is silent."""
    command = ["squeue", "--me", "--noheader", "--states", "RUNNING", "--format", "%A"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_ASKING)
        return set(done.stdout.split())
    return set()
