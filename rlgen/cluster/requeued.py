"""What submitit runs: one `rlgen` command by all processes of a job, on one node or several."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from submitit import JobEnvironment
from submitit.helpers import Checkpointable, DelayedSubmission, TorchDistributedEnvironment

from rlgen.launch import STOPPED

MADE = "made"
"""Links to the artifact in the job's folder."""


class Requeued(Checkpointable):
    """A command of `rlgen`, run by each process of the job.

    When submitit is warned of the time limit or of preemption, it calls `checkpoint` in the first process and has the
    job requeued. A stage goes on from what it has saved, so that all there is to do is to let it save.
    """

    def __init__(self, words: list[str], out: Path, folder: Path, threads: int, patience: float) -> None:
        self.words = words
        self.out = out
        """What the command makes."""
        self.folder = folder
        """The job's own."""
        self.threads = threads
        """Of each process."""
        self.patience = patience
        """Seconds that the command is given to save and stop; what it has not saved then is lost."""
        self.done = False
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False

    def __call__(self) -> None:
        """Run it. Raises RuntimeError if it fails, which ends the job's other processes."""
        if not self.done:
            self._run()
        if JobEnvironment().global_rank == 0:
            self._keep()

    def _run(self) -> None:
        _forget_earlier_result()
        environment = {**os.environ, **_meeting(), "OMP_NUM_THREADS": str(self.threads)}
        command = [sys.executable, "-m", "rlgen", *self.words]
        # In a session of its own, as SLURM signals a task's whole group, and the warning is for submitit.
        self._ending = False
        signal.signal(signal.SIGTERM, self._save)
        process = self._process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # `wait` holds a lock that `checkpoint` needs
        finally:
            process.kill()
        status = process.wait()
        while status in (STOPPED, -signal.SIGUSR2) or (status and self._ending):
            signal.pause()  # until the job is killed: it is requeued, by the first process or by SLURM
        if status:
            raise RuntimeError(f"rlgen {self.words[0]} ended with status {status}; its log says why")

    def _keep(self) -> None:
        """Links to what was made, all or none."""
        partial = self.folder / f"{MADE}.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(self.out, partial, copy_function=os.link)
        partial.replace(self.folder / MADE)

    def checkpoint(self) -> DelayedSubmission:
        """What the requeued job runs: the same, unless that was finished in the last moment."""
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR2)
            try:
                self.done = self._process.wait(self.patience) == 0
            except subprocess.TimeoutExpired:
                self._process.kill()
        return DelayedSubmission(self)

    def _save(self, _signal: int, _frame: FrameType | None) -> None:
        """SLURM ends the job, and starts it again if that is preemption; `checkpoint` may not be called at all."""
        self._ending = True
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR2)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_process": None}


def _forget_earlier_result() -> None:
    """Delete what this process of the job left when it was last started: submitit writes results, and deletes none."""
    JobEnvironment().paths.result_pickle.unlink(missing_ok=True)


def _meeting() -> dict[str, str]:
    """The variables by which the job's processes find one another; none if there is but one."""
    before = dict(os.environ)
    found = TorchDistributedEnvironment()
    if found.world_size == 1:
        return {}
    found.export(set_cuda_visible_devices=False, overwrite=True)
    new = {name: value for name, value in os.environ.items() if before.get(name) != value}
    if not _resolves(found.master_addr) and "SLURM_LAUNCH_NODE_IPADDR" in os.environ:
        new["MASTER_ADDR"] = os.environ["SLURM_LAUNCH_NODE_IPADDR"]  # where srun was called: the first node
    return new


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
