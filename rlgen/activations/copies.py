"""Copies of shards on a disk of this machine, for readers that come back to them (`RLGEN_SCRATCH`).

A shard is copied when it is first read, by long reads in order, which are what shared file systems are fast at; its
chunks are then read from the copy. What finds no room is read where it is. The processes of a job on one machine share
their copies. They are removed when the last one ends, also by an error; what a killed job left is removed by the next
one that comes to the same disk. The locks are in the folder of the copies, so none is asked of a shared file system.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from rlgen import slurm
from rlgen.errors import StudyError
from rlgen.launch import world_size
from rlgen.owner import lives, this_process
from rlgen.stage import write_json

log = logging.getLogger("rlgen")

FOLDER, LIMIT = "RLGEN_SCRATCH", "RLGEN_SCRATCH_GB"
"""Variables: the folder, which may name others (`$TMPDIR`), and the most that a job's copies may take there."""
_SHARE_OF_FREE = 0.5
"""What they may take if that is not said, of what is free when the job begins."""
_BLOCK = 16 << 20
"""Bytes copied at once."""
_TOLD_EVERY = 10.0
"""Seconds between log lines."""


class Copies:
    """Copies in one folder, that take `limit` bytes at most."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._told = time.monotonic()

    def place(self, path: Path) -> Path:
        """Where to read a file: its copy, made now if there is none and there is room; else where it is."""
        key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
        copy = self.folder / f"{key}.copy"
        with self._locked(key):
            if not copy.exists():
                size = path.stat().st_size
                begun = self.folder / f"{key}.begun"
                if not self._reserve(begun, size):
                    return path
                try:
                    _copy(path, begun)
                except OSError as error:
                    begun.unlink(missing_ok=True)
                    log.warning("%s: no copy of %s (%s), it is read where it is", self.folder, path, error.strerror)
                    return path
                begun.replace(copy)
                self._tell()
        return copy

    def _tell(self) -> None:
        """Say how much has been copied, now and then: a large store's copying takes minutes before the first step."""
        if time.monotonic() - self._told > _TOLD_EVERY:
            self._told = time.monotonic()
            sizes = [path.stat().st_size for path in self.folder.glob("*.copy")]
            log.info("%d shards copied, %.1f GB", len(sizes), sum(sizes) / 1e9)

    def _reserve(self, file: Path, size: int) -> bool:
        """Take the room for a file, if there is any."""
        with self._locked("room"):
            used = sum(map(_size, self.folder.iterdir()))
            if used + size > self.limit or size > shutil.disk_usage(self.folder).free:
                return False
            with file.open("wb") as handle:
                handle.truncate(size)  # counted from now on
        return True

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Alone, of all threads and processes that share the folder; a process that is killed gives way."""
        with (self.folder / f"{key}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


@contextlib.contextmanager
def local_copies(again: bool = True) -> Iterator[Copies | None]:
    """The job's copies, removed at the end; None unless `RLGEN_SCRATCH` asks for them and shards are read `again`.

    Raises StudyError if what it names is no folder that can be written.
    """
    wanted = os.environ.get(FOLDER)
    if not wanted or not again:
        yield None
        return
    root = Path(os.path.expandvars(wanted))
    _remove_what_was_left(root)
    alone = os.getppid() if world_size() > 1 else os.getpid()  # those that share one have one parent, `torchrun`
    job = slurm.own_job() or alone
    folder = root / f"{_prefix()}{job}"
    user = folder / f"{os.getpid()}.user"
    try:
        folder.mkdir(exist_ok=True)
        write_json(user, this_process())
        limit = int(float(os.environ.get(LIMIT, 0)) * 1e9) or int(shutil.disk_usage(root).free * _SHARE_OF_FREE)
    except OSError as error:
        raise StudyError(f"{FOLDER}={wanted}: {root} cannot be written ({error.strerror}); name a local disk") from None
    except ValueError:
        raise StudyError(f"{LIMIT}={os.environ[LIMIT]}: not a number; give gigabytes, for instance 500") from None
    log.info("shards that are read again are copied to %s, %.0f GB of them at most", folder, limit / 1e9)
    try:
        yield Copies(folder, limit)
    finally:
        user.unlink(missing_ok=True)
        if not any(folder.glob("*.user")):
            shutil.rmtree(folder, ignore_errors=True)


def _remove_what_was_left(root: Path) -> None:
    """Delete the copies of jobs of this machine that were killed."""
    for folder in root.glob(f"{_prefix()}*"):
        users = [json.loads(path.read_text()) for path in folder.glob("*.user")]
        if users and not any(map(lives, users)):
            log.info("removing %s, which a job left that was killed", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _size(path: Path) -> int:
    """Bytes of a file, which another process may just have renamed."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _prefix() -> str:
    return f"rlgen-{platform.node()}-"


def _copy(source: Path, target: Path) -> None:
    """Copy a file by long reads, in order. Raises OSError."""
    with source.open("rb", buffering=0) as reading, target.open("r+b", buffering=0) as writing:
        os.posix_fadvise(reading.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while block := reading.read(_BLOCK):
            writing.write(block)
