"""Compares formulas in a process of its own, so that none can take this one's time, memory or life."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

_PACKAGES = Path(__file__).parents[2]


class _Process:
    """The worker, started when it is first needed and again when it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, request: dict[str, Any]) -> bool:
        """Return the worker's verdict; False if the request outlasts its limits."""
        with self._lock:
            for attempt in range(2):
                worker = self._running()
                try:
                    assert worker.stdin is not None
                    assert worker.stdout is not None
                    worker.stdin.write(json.dumps(request) + "\n")
                    worker.stdin.flush()
                    said = worker.stdout.readline()
                except OSError:  # it was gone before it was asked
                    said = ""
                    if attempt == 0:
                        self.end()
                        continue
                if said:
                    return said == "1\n"
                self.end()
                return False
        return False

    def _running(self) -> subprocess.Popen[str]:
        if self._worker is None or self._owner != os.getpid():  # a fork's worker is its parent's
            paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
            self._worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "rlgen.verifiers.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            )
            self._owner = os.getpid()
        return self._worker

    def end(self) -> None:
        """Forget the worker, and end it if it still runs."""
        worker, self._worker = self._worker, None
        if worker is not None and self._owner == os.getpid():
            worker.kill()
            with contextlib.suppress(OSError):
                worker.communicate()


_PROCESS = _Process()


@lru_cache(maxsize=1 << 16)
def same_formula(gold: str, given: str, decimal: tuple[str, int, int] | None = None) -> bool:
    """Return whether two formulas in LaTeX are equal.

    Args:
        gold: The right one.
        given: The one to judge.
        decimal: Value (as a fraction), places and side (0: the gold) of a decimal that may stand for the other's value.

    Returns:
        Whether they are equal; False if one cannot be read, or if comparing them takes too long.
    """
    return _PROCESS.ask({"gold": gold, "given": given, "decimal": decimal})


@lru_cache(maxsize=1 << 12)
def reads(latex: str) -> bool:
    """Return whether LaTeX can be read as a formula."""
    return _PROCESS.ask({"reads": latex})
