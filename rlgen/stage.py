"""What all stages share: a partial folder, resume, one atomic publish, a manifest, progress.

A stage works in `<artifact>.partial/`, which Snakemake does not know and so does not delete. The folder carries
the fingerprint of its settings and inputs: run again with the same, the stage goes on from its last complete
unit; with others, it starts anew. When all is done the folder is renamed to the artifact, in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from rlgen.errors import StudyError
from rlgen.study.stages import StageSettings

log = logging.getLogger("rlgen")

MANIFEST = "manifest.json"
_STATE = ".stage.json"
_SCRATCH = ".scratch"
_POLL = 0.5
"""Seconds between looks at whether another process has ended."""
_PACKAGES = ("rlgen", "torch", "transformers", "trl", "lm_eval", "zarr", "numpy", "pandas", "snakemake")


class Workspace:
    """The partial folder of a running stage."""

    def __init__(self, name: str, folder: Path, elapsed: float, inputs: dict[str, str]) -> None:
        self.name = name
        """The stage."""
        self.inputs = inputs
        """Content digests of the stage's inputs."""
        self.folder = folder
        """Everything in it is published, except `scratch`."""
        self.scratch = folder / _SCRATCH
        """What is needed to resume and no longer than that: deleted before publishing."""
        self.scratch.mkdir(exist_ok=True)
        self.digest: str | None = None
        """Content digest of the artifact, if the stage has a cheaper one than hashing every file."""
        self._before = elapsed
        self._start = time.monotonic()

    @property
    def wall_seconds(self) -> float:
        """Time worked so far, interrupted runs included up to their last progress."""
        return self._before + time.monotonic() - self._start

    def progress(self, total: int, unit: str, done: int = 0) -> Progress:
        """Progress over `total` units, of which `done` were done before."""
        return Progress(self, total, unit, done)

    def remember_time(self) -> None:
        """Note the time worked, so that a resumed run adds to it."""
        state = json.loads((self.folder / _STATE).read_text())
        write_json(self.folder / _STATE, {**state, "elapsed": self.wall_seconds})


class Progress:
    """Plain log lines with rate and time left, at most one in `every` seconds."""

    def __init__(self, work: Workspace, total: int, unit: str, done: int, every: float = 5.0) -> None:
        self._work, self._total, self._unit, self._every = work, total, unit, every
        self._first = self._done = done
        self._start = self._last = time.monotonic()

    def to(self, done: int, note: str = "") -> None:
        """`done` units are done now."""
        self._done = done
        now = time.monotonic()
        if now - self._last < self._every and done < self._total:
            return
        self._last = now
        self._work.remember_time()
        rate = (done - self._first) / max(now - self._start, 1e-9)
        left = f"{(self._total - done) / rate:.0f} s left" if rate > 0 else "time left unknown"
        text = f"{self._work.name}: {done:,}/{self._total:,} {self._unit}, {rate:,.1f}/s, {left}"
        log.info("%s%s", text, f", {note}" if note else "")

    def add(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done."""
        self.to(self._done + count, note)


@contextlib.contextmanager
def stage(name: str, settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Iterator[Workspace]:
    """Make the artifact `out`: yields its workspace, and publishes it when the block ends without an error.

    `inputs` are files or folders; those that are artifacts are known by their manifest's digest. Raises
    StudyError if an input is missing or the folder cannot be written.
    """
    digests = {key: {"path": str(path), "digest": input_digest(key, path)} for key, path in sorted(inputs.items())}
    fingerprint = json_digest({"stage": name, "settings": settings.canonical(), "inputs": digests})
    partial = out.with_name(out.name + ".partial")
    try:
        elapsed = _open(partial, fingerprint)
    except OSError as error:
        raise StudyError(f"{partial}: cannot be written ({error.strerror}); free space or permit writing") from None
    work = Workspace(name, partial, elapsed, {key: found["digest"] for key, found in digests.items()})
    log.info("%s: %s %s", name, "resuming" if elapsed else "starting", out)
    yield work
    manifest = {
        "stage": name,
        "settings": json.loads(settings.canonical()),
        "seed": settings.seed,
        "inputs": digests,
        "versions": versions(),
        "git_commit": _git_commit(),
        "wall_seconds": round(work.wall_seconds, 3),
        "device": _device(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    shutil.rmtree(work.scratch)
    (partial / _STATE).unlink()
    manifest["digest"] = work.digest or content_digest(partial)
    write_json(partial / MANIFEST, manifest)
    _publish(partial, out)
    log.info("%s: done in %.1f s: %s", name, work.wall_seconds, out)


def read_manifest(artifact: Path) -> dict[str, Any]:
    """An artifact's manifest. Raises StudyError if there is none."""
    path = artifact / MANIFEST
    if not path.is_file():
        raise StudyError(f"{path}: no such file; the artifact is not finished, run its rule again")
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest


def input_digest(key: str, path: Path) -> str:
    """What an input's content is known by. Raises StudyError if it is missing."""
    if not path.exists():
        raise StudyError(f"input `{key}`: no such file or folder: {path}; run the rule that makes it first")
    if (path / MANIFEST).is_file():
        return str(read_manifest(path)["digest"])
    return content_digest(path)


def content_digest(path: Path) -> str:
    """SHA-256 over a file, or over a folder's files and their names."""
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file.name not in (MANIFEST, ".snakemake_timestamp"):
            with file.open("rb") as handle:
                inner = hashlib.file_digest(handle, "sha256")
            total.update(f"{file.relative_to(path)}\0{inner.hexdigest()}\n".encode())
    return total.hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value's canonical text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^31) that follows from its parts, for instance the study's seed and a stage's name."""
    return int(json_digest([str(part) for part in parts])[:8], 16) >> 1


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is there whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name to write to, put in the place of `path` when the block ends without an error."""
    temporary = path.with_name(f"{path.name}.tmp")
    yield temporary
    temporary.replace(path)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _open(partial: Path, fingerprint: str) -> float:
    """Make the partial folder ready; returns the seconds that earlier runs worked in it."""
    state = partial / _STATE
    _wait_for_owner(state)
    elapsed = 0.0
    if partial.exists() and not _continues(state, fingerprint):
        shutil.rmtree(partial)
    if partial.exists():
        elapsed = float(json.loads(state.read_text())["elapsed"])
    partial.mkdir(parents=True, exist_ok=True)
    write_json(state, {"fingerprint": fingerprint, "elapsed": elapsed, "owner": _owner()})
    return elapsed


def _continues(state: Path, fingerprint: str) -> bool:
    """Whether a partial folder is of the same settings and inputs."""
    return state.is_file() and bool(json.loads(state.read_text())["fingerprint"] == fingerprint)


def _owner() -> dict[str, Any]:
    """This process, so that it can be told from a later one of the same number."""
    return {"host": platform.node(), "pid": os.getpid(), "born": psutil.Process().create_time()}


def _wait_for_owner(state: Path) -> None:
    """Wait while another process of this machine works in the folder.

    Snakemake killed leaves its jobs running: the same command, given again, must not write into their folders.
    """
    told = False
    while state.is_file():
        owner = json.loads(state.read_text())["owner"]
        if owner["host"] != platform.node() or owner["pid"] == os.getpid() or not _lives(owner):
            return
        if not told:
            log.info("waiting for process %d, which is at work in %s", owner["pid"], state.parent)
            told = True
        time.sleep(_POLL)


def _lives(owner: Mapping[str, Any]) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(owner["pid"])
        return bool(process.create_time() == owner["born"] and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _publish(partial: Path, out: Path) -> None:
    old = out.with_name(out.name + ".old")
    if out.exists():
        out.replace(old)
    partial.replace(out)
    if old.exists():
        shutil.rmtree(old)


def _git_commit() -> str | None:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


def _device() -> str:
    torch = sys.modules.get("torch")  # a stage that did not need torch ran on the CPU
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu ({platform.machine()}, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads)"
