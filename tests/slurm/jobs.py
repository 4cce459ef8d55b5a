"""Submitting jobs and waiting for them, with time limits: on a broken cluster SLURM's own commands wait for ever."""

import subprocess
import time
from pathlib import Path


def sbatch(script: str, *options: str, output: Path | str = "/dev/null") -> str:
    """Submit a script; returns the job's id."""
    return said("sbatch", "--parsable", f"--output={output}", *options, f"--wrap={script}")


def states(jobs: list[str]) -> dict[str, str]:
    """States of jobs that the accounting knows, by id."""
    rows = said("sacct", "-nXP", "--format=JobID,State", "--jobs", ",".join(jobs)).splitlines()
    return dict(row.split("|") for row in rows)


def all_are(jobs: list[str], *wanted: str, seconds: float = 120) -> None:
    """Wait until every job is in one of these states."""
    deadline = time.monotonic() + seconds
    while not (len(found := states(jobs)) == len(jobs) and set(found.values()) <= set(wanted)):
        assert time.monotonic() < deadline, found
        time.sleep(0.3)


def said(*command: str) -> str:
    """What a command printed. Fails if it does."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
