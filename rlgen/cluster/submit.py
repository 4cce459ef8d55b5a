"""Submits a command by submitit, follows its log, and picks up a job that was submitted before.

A job's files lie in `<artifact>.job/`, beside its partial folder: what submitit needs, its processes' logs, a note with
the job's id, and at last hard links to the artifact's files: Snakemake, killed while the job went on, deletes what was
made in its absence before it runs the command again. They are deleted when the job has done its work.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import submitit
from submitit.core.utils import JobPaths, pickle_load
from submitit.helpers import clean_env

from rlgen import slurm
from rlgen.cluster.requeued import MADE, Requeued
from rlgen.errors import StudyError
from rlgen.owner import lives, process_of
from rlgen.stage import json_digest, write_json

log = logging.getLogger("rlgen")

_NOTE = "job.json"
_LOOK = 1.0
"""Seconds between looks at the log."""
_ASK = 15.0
"""Seconds between questions to the scheduler whether the job is still there."""
_ASK_FAILED = 3.0
"""The same, when one of its processes has failed."""
_LATE = 20.0
"""Seconds that a file system may take to show what a job has written last."""
_WARNING = 300
"""Seconds before its time limit at which a job is told to save and stop; a quarter of the limit if that is less."""
_REQUEUES = 10_000
"""Time limits that a job may meet: a run of weeks on a partition with one of hours."""


@dataclass(frozen=True)
class Request:
    """What a job is given."""

    nodes: int = 1
    tasks_per_node: int = 1
    threads: int = 1
    """CPUs a node."""
    gpus: int = 0
    """GPUs a node."""
    mem_mb: int = 2000
    """Memory a node, in MB."""
    minutes: int = 60
    """Time limit; a job that meets it is requeued and goes on."""
    site: dict[str, str] = field(default_factory=dict)
    """What the profile says of all jobs: partition, account, qos, constraint, gpu_model."""

    @property
    def warning(self) -> int:
        """Seconds before the time limit at which the job is told to save and stop."""
        return min(_WARNING, self.minutes * 60 // 4)

    @property
    def threads_per_task(self) -> int:
        """CPUs of each process."""
        return max(1, self.threads // self.tasks_per_node)


class Interrupted(Exception):
    """Snakemake, or its user, wants this to end."""


def run(words: list[str], out: Path, request: Request) -> None:
    """Run `rlgen <words>`, which makes the artifact `out`, as a job of its own; returns when it has.

    A job that an earlier call submitted for the same command is picked up. Raises StudyError if the job fails, and
    cancels it on SIGINT and SIGTERM.
    """
    folder = out.absolute().with_name(out.name + ".job")
    name = f"rlgen-{words[0]}-{json_digest(str(folder))[:12]}"
    job = _picked_up(folder, words)
    if job is None and _recovered(folder, words, out):
        return
    job = job or _submitted(folder, name, words, out, request)
    try:
        with _interruptions():
            _follow(job)
    except Interrupted as interruption:
        log.info("job %s: cancelled", job.id)
        job.cancel()
        raise SystemExit(128 + interruption.args[0]) from None
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Job:
    """A job that was submitted."""

    folder: Path
    id: str
    tasks: int
    process: dict[str, Any] | None
    """That which runs it where there is no SLURM, as `rlgen.owner` tells of it."""

    def files(self, task: int) -> JobPaths:
        """Where submitit keeps a process' log and result."""
        return JobPaths(self.folder, job_id=self.id, task_id=task)

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return slurm.active(self.id) if self.process is None else lives(self.process)

    def cancel(self) -> None:
        """Have it end. It may take a while; a stage that is run again before then waits for it."""
        (self.folder / _NOTE).unlink(missing_ok=True)
        if self.process is None:
            slurm.cancel(self.id)
        elif self.active:
            psutil.Process(int(self.id)).send_signal(signal.SIGINT)

    def outcome(self) -> str | None:
        """`success` if every process succeeded, what went wrong in one that did not, None while neither is known."""
        found = [pickle_load(path) for task in range(self.tasks) if (path := self.files(task).result_pickle).exists()]
        errors = [trace for result, trace in found if result == "error"]
        if errors:
            return str(errors[0]).strip().splitlines()[-1]
        return "success" if len(found) == self.tasks else None


def _picked_up(folder: Path, words: list[str]) -> Job | None:
    """The job that the note tells of, if it is for the same command and still there; one for another is cancelled."""
    try:
        note = json.loads((folder / _NOTE).read_text())
    except FileNotFoundError:
        return None
    job = Job(folder, note["id"], note["tasks"], note["process"])
    if not job.active:
        return None
    if note["words"] == words and job.outcome() in (None, "success"):
        log.info("job %s: picked up where it is", job.id)
        return job
    log.info("job %s: cancelled, as it is of other settings, or about to fail", job.id)
    job.cancel()
    return None


def _recovered(folder: Path, words: list[str], out: Path) -> bool:
    """Whether a job did its work while nobody waited for it; the artifact is put in its place again."""
    made = folder / MADE
    with contextlib.suppress(FileNotFoundError):
        if made.exists() and json.loads((folder / _NOTE).read_text())["words"] == words:
            if out.exists():
                shutil.rmtree(out)
            made.replace(out)
            shutil.rmtree(folder)
            log.info("%s was made while nobody waited for it", out)
            return True
    return False


def _submitted(folder: Path, name: str, words: list[str], out: Path, request: Request) -> Job:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    on_slurm = slurm.available()
    if on_slurm:
        for stray in slurm.named(name):  # the call that submitted it was killed before it could write the note
            slurm.cancel(stray)
    executor = _on_slurm(folder, name, request) if on_slurm else _here(folder, request)
    with clean_env():
        try:
            started = executor.submit(Requeued(words, out, folder, request.threads_per_task, request.warning * 0.8))
        except submitit.core.utils.FailedJobError as error:
            raise StudyError(f"SLURM does not take the job: {error}; see `resources` and the profile") from None
    process = None if on_slurm else process_of(int(started.job_id))
    job = Job(folder, started.job_id, request.nodes * request.tasks_per_node, process)
    note = {"id": job.id, "tasks": job.tasks, "process": process, "words": words}
    write_json(folder / _NOTE, note)
    log.info("job %s: submitted, %d x %d processes", job.id, request.nodes, request.tasks_per_node)
    return job


def _on_slurm(folder: Path, name: str, request: Request) -> submitit.SlurmExecutor:
    executor = submitit.SlurmExecutor(folder, max_num_timeout=_REQUEUES)
    site = {key: value for key, value in request.site.items() if value and key != "gpu_model"}
    model = request.site.get("gpu_model")
    gpus = f"{model}:{request.gpus}" if model else request.gpus
    executor.update_parameters(
        job_name=name,
        nodes=request.nodes,
        ntasks_per_node=request.tasks_per_node,
        cpus_per_task=request.threads_per_task,
        mem=f"{request.mem_mb}M",
        time=request.minutes,
        signal_delay_s=request.warning,
        stderr_to_stdout=True,
        srun_args=["--kill-on-bad-exit=1"],  # the others would wait for a process that has failed
        additional_parameters={"requeue": True},
        **({"gpus_per_node": gpus} if request.gpus else {}),
        **site,
    )
    return executor


def _here(folder: Path, request: Request) -> submitit.LocalExecutor:
    """Where there is no SLURM, all processes run on this machine."""
    executor = submitit.LocalExecutor(folder, max_num_timeout=_REQUEUES)
    executor.update_parameters(
        timeout_min=request.minutes,
        signal_delay_s=request.warning,
        tasks_per_node=request.nodes * request.tasks_per_node,
        gpus_per_node=request.nodes * request.gpus,
        stderr_to_stdout=True,
    )
    return executor


def _follow(job: Job) -> None:
    """Pass on the first process' log until the job has done its work. Raises StudyError if it fails."""
    shown, asked = 0, time.monotonic()
    while (outcome := job.outcome()) != "success":
        shown = _pass_on(job.files(0).stdout, shown)
        # One process' error is not yet the job's end: the others may have had it requeued, and it starts anew.
        if time.monotonic() - asked > (_ASK if outcome is None else _ASK_FAILED):
            asked = time.monotonic()
            if not job.active:
                outcome = _last_outcome(job)
                break
        time.sleep(_LOOK)
    _pass_on(job.files(0).stdout, shown)
    if outcome != "success":
        raise StudyError(f"job {job.id}: {outcome}; the logs of all its processes are in {job.folder}")


def _last_outcome(job: Job) -> str:
    """Of a job that has ended: what its processes tell, or else SLURM."""
    deadline = time.monotonic() + _LATE
    while (outcome := job.outcome()) is None and time.monotonic() < deadline:
        time.sleep(_LOOK)
    how = slurm.ending(job.id) if job.process is None else ""
    return outcome or f"ended without a result{', SLURM says: ' + how if how else ''}"


def _pass_on(path: Path, shown: int) -> int:
    """Print what a log says from byte `shown` on; returns its length."""
    try:
        with path.open("rb") as handle:
            handle.seek(shown)
            new = handle.read()
    except FileNotFoundError:  # the job waits
        return shown
    sys.stderr.write(new.decode(errors="replace"))
    sys.stderr.flush()
    return shown + len(new)


@contextlib.contextmanager
def _interruptions() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted, once: what follows has time to end the job."""

    def interrupt(signum: int, frame: FrameType | None) -> Any:
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(signum)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
