"""What SLURM says of its jobs. It is asked by its own commands, and need not be there."""

from __future__ import annotations

import os
import shutil
import subprocess

_PATIENCE = 60
"""Seconds to wait for an answer of a scheduler that is busy."""


def available() -> bool:
    """Whether jobs can be submitted from here."""
    return shutil.which("sbatch") is not None and shutil.which("srun") is not None


def own_job() -> str | None:
    """The job that this process is of."""
    return os.environ.get("SLURM_JOB_ID")


def active(job: str) -> bool:
    """Whether a job waits, runs or is being requeued. A scheduler that does not answer leaves it at that: True.

    Where there is no SLURM, as in a container, nothing can be known of it, and nobody would wait to any end: False.
    """
    if shutil.which("squeue") is None:
        return False
    said = _ask("squeue", "--noheader", f"--jobs={job}", "--format=%T")
    if said is None or said.returncode:
        return said is None or "Invalid job id" not in said.stderr
    return bool(said.stdout.strip())


def running() -> set[str]:
    """The user's jobs that run, by one question; none where there is no SLURM or it is silent."""
    said = _ask("squeue", "--noheader", "--me", "--states=RUNNING", "--format=%A")
    return set(said.stdout.split()) if said else set()


def named(name: str) -> list[str]:
    """Active jobs of that name, the user's own."""
    said = _ask("squeue", "--noheader", "--me", f"--name={name}", "--format=%A")
    return said.stdout.split() if said else []


def ending(job: str) -> str:
    """How a job ended, as accounting words it (`TIMEOUT`, `OUT_OF_MEMORY`, ...); empty if nothing is known."""
    said = _ask("sacct", "--noheader", "--allocations", f"--jobs={job}", "--format=State%30")
    return said.stdout.strip() if said else ""


def cancel(job: str) -> None:
    """End a job."""
    _ask("scancel", job)


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    """Run a command of SLURM's; None if there is none, or no answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
