"""One command of `rlgen` by several processes: how they are started, and how they work at one stage together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TypeVar

from rlgen.stage import AlreadyMade, Workspace, stage

if TYPE_CHECKING:
    from rlgen.study.stages import StageSettings

log = logging.getLogger("rlgen")

T = TypeVar("T")

STOPPED = 75
"""Exit status of a stage that was told to stop and has saved where it was."""
_TIMEOUT = timedelta(hours=2)
"""How long processes wait for one another: a process may write a large state, or its completions are long."""


def torchrun(processes: int, words: list[str]) -> NoReturn:
    """Go on as `torchrun`, with so many processes of `rlgen <words>`; they find each other by its environment.

    Exits with the status of the first process that failed, which has said why, or as the signal that stopped it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    os.environ["OMP_NUM_THREADS"] = str(max(1, threads // processes))  # what the job has, shared
    try:
        main(["--standalone", "--nproc-per-node", str(processes), "-m", "rlgen", *words])
    except ChildFailedError as error:
        raise SystemExit(error.get_first_failure()[1].exitcode) from None
    except SignalException as error:  # told to stop, by a scheduler for instance; the processes have been, too
        raise SystemExit(128 + error.sigval) from None
    raise SystemExit(0)


def world_size() -> int:
    """Processes of this job, as `torchrun` (or submitit) has told them; 1 where there is no such job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process among those of its job."""
    return int(os.environ.get("RANK", "0"))


def join(alone: bool = False) -> None:
    """Meet the job's other processes, by NCCL on GPUs (one each) and gloo elsewhere.

    A process that has no others has nothing to do, unless it is to make a group of its own (`alone`), which DeepSpeed
    asks for.
    """
    import torch
    import torch.distributed as dist

    if dist.is_initialized() or (world_size() == 1 and not alone):
        return
    if "WORLD_SIZE" not in os.environ:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = str(_free_port())
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_TIMEOUT)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def agree(value: T) -> T:
    """The first process' value, for all."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    found = [value]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def gather(value: T) -> list[T]:
    """Return every process' value, in the order of their ranks; alone, or before the processes have joined, one."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    if not dist.is_initialized():
        return [value]
    found: list[T] = [value] * world_size()
    dist.all_gather_object(found, value)
    return found


def wait() -> None:
    """Until all processes are here."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


class Saving:
    """When a training state is due: every so many seconds, and so that saving takes at most a share of the time.

    It is due at once when the first process is told to stop, by SIGUSR2, or SIGTERM as schedulers do; when it is saved
    all end, with `STOPPED`.
    """

    def __init__(self, seconds: float, share: float) -> None:
        self._seconds = self._pause = seconds
        self._share = share
        self._last = self._begun = time.monotonic()
        self._told = self._stop = False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGUSR2, signal.SIGTERM):
                signal.signal(number, self._tell)

    def _tell(self, _signal: int, _frame: FrameType | None) -> None:
        self._told = True

    def due(self) -> bool:
        """Whether to save now: the same answer for all processes, which must all ask."""
        late = time.monotonic() - self._last > self._pause
        due, self._stop = agree((late or self._told, self._told))
        return due

    def begin(self) -> None:
        """A state is about to be written."""
        self._begun = time.monotonic()

    def end(self) -> None:
        """It has been. Raises SystemExit if that was all that there was time for."""
        if self._stop:
            log.info("stopped, and goes on from here when it is run again")
            raise SystemExit(STOPPED)
        self._last = time.monotonic()
        self._pause = max(self._seconds, (self._last - self._begun) / self._share)


@contextlib.contextmanager
def stage_of_all(name: str, settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Iterator[Workspace]:
    """`stage` by all processes of a job, which have joined: the first enters it, the others work in its folder."""
    if rank():
        logging.getLogger("rlgen").setLevel(logging.WARNING)  # one process' lines are enough
        folder = agree(None)
        if folder is None:
            raise AlreadyMade
        yield Workspace(name, Path(folder), 0.0, {})
        wait()
        return
    try:
        with stage(name, settings, inputs, out) as work:
            agree(str(work.folder))
            yield work
            wait()
    except AlreadyMade:
        agree(None)
        raise
