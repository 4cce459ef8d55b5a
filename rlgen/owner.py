"""Whose a partial folder is: of two processes that are to make the same artifact, one waits for the other."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from rlgen import slurm

log = logging.getLogger("rlgen")

_POLL = 0.5
"""Seconds between looks at whether another process has ended."""
_POLL_JOB = 15.0
"""The same, where the scheduler must be asked."""


def read_note(note: Path) -> dict[str, Any] | None:
    """What a partial folder's note says; None if there is none, or its process has just deleted it."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        state: dict[str, Any] = json.loads(note.read_text())
        return state
    return None


def owner() -> dict[str, Any]:
    """This process, so that it can be told from a later one of the same number, and its job, from other machines."""
    process = {"host": platform.node(), "pid": os.getpid(), "born": psutil.Process().create_time()}
    return {**process, "job": slurm.own_job()}


def wait_for_owner(note: Path) -> bool:
    """Wait while another process, of this machine or of a job, works in a note's folder; returns whether one did.

    Snakemake killed leaves its jobs running: the same command, given again, must not write into their folders.
    """
    found: dict[str, Any] | None = None
    waited = False
    while note.parent.is_dir():
        state = read_note(note)
        found = state["owner"] if state else found  # the note goes a moment before the folder does
        if found is None or not (_lives(found) if found["host"] == platform.node() else _in_job(found)):
            break
        if not waited:
            log.info("waiting for process %d of %s, which works in %s", found["pid"], found["host"], note.parent)
            waited = True
        time.sleep(_POLL if found["host"] == platform.node() else _POLL_JOB)
    return waited


def _in_job(owner: Mapping[str, Any]) -> bool:
    """Whether a process of another machine may still be there: its job is, and is not this one, started again here."""
    job = owner.get("job")
    return job is not None and job != slurm.own_job() and slurm.active(job)


def _lives(owner: Mapping[str, Any]) -> bool:
    if owner["pid"] == os.getpid():
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner["pid"])
        return bool(process.create_time() == owner["born"] and process.status() != psutil.STATUS_ZOMBIE)
    return False
