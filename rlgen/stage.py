"""What all stages share: a partial folder, resume, one atomic publish, a manifest, progress.

A stage works in `<artifact>.partial/`, which Snakemake does not know and so does not delete. The folder carries
the fingerprint of its settings and inputs: run again with the same, the stage goes on from its last complete
unit; with others, it starts anew. When all is done the manifest is written, what only resuming needed is deleted,
and the folder is renamed to the artifact, in one step: a folder with a manifest has no work left to do.
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
from typing import TYPE_CHECKING, Any

from rlgen.errors import StudyError
from rlgen.formats import FORMATS, MANIFEST, check_format, check_mixture
from rlgen.owner import is_here, lives, this_process
from rlgen.source import code_digest

if TYPE_CHECKING:  # the command line reads this file for its help, and pydantic is slow to import
    from rlgen.study.stages import StageSettings

log = logging.getLogger("rlgen")

_STATE = ".stage.json"
_SCRATCH = ".scratch"
_POLL, _POLL_ELSEWHERE = 0.5, 30.0
"""Seconds between looks at whether another process has ended; on another machine, SLURM is asked."""
_PACKAGES = (
    *("rlgen", "torch", "transformers", "trl", "accelerate", "deepspeed", "peft", "vllm", "datasets", "lm_eval"),
    *("math-verify", "zarr", "numpy", "pandas", "snakemake"),
)


class AlreadyMade(Exception):
    """Nothing is left to do: the artifact was finished by an earlier run, or by another process just now."""


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
        self.facts: dict[str, Any] = {}
        """What the manifest says of the artifact beside what it says of all; not part of the digest."""
        self._before = elapsed
        self._start = time.monotonic()

    @property
    def wall_seconds(self) -> float:
        """Time worked so far, interrupted runs included up to their last progress."""
        return self._before + time.monotonic() - self._start

    def progress(self, total: int, unit: str, done: int = 0) -> Progress:
        """Progress over `total` units, of which `done` were done before."""
        return Progress(self, total, unit, done)

    def remember(self, done: int, total: int, unit: str) -> None:
        """Note how far the work is, and the time worked, so that a resumed run adds to it."""
        state = json.loads((self.folder / _STATE).read_text())
        progress = {"done": done, "total": total, "unit": unit}
        write_json(self.folder / _STATE, {**state, "elapsed": self.wall_seconds, "progress": progress})


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
        self._work.remember(done, self._total, self._unit)
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
    StudyError if an input is missing or of another format, if inputs are of versions that must not be mixed, or if the
    folder cannot be written, and AlreadyMade if there is no work left: a run that was killed had but to publish, or a
    process that was waited for has published.
    """
    digests = {key: {"path": str(path), "digest": input_digest(key, path)} for key, path in sorted(inputs.items())}
    check_mixture(inputs.values())
    fingerprint = json_digest({"stage": name, "settings": settings.canonical(), "inputs": digests})
    partial = out.with_name(out.name + ".partial")
    if _wait_for_owner(partial) and _finished(out, fingerprint):
        log.info("%s: made by the other process: %s", name, out)
        raise AlreadyMade
    if _finished(partial, fingerprint):
        _publish(partial, out)
        log.info("%s: done before: %s", name, out)
        raise AlreadyMade
    earlier = _earlier(partial, fingerprint)
    code = earlier.get("code") if earlier else code_digest(name)  # what other code began is never this code's alone
    elapsed = float(earlier["elapsed"]) if earlier else None
    try:
        _open(partial, earlier or {"fingerprint": fingerprint, "elapsed": 0.0, "code": code}, anew=earlier is None)
    except OSError as error:
        raise StudyError(f"{partial}: cannot be written ({error.strerror}); free space or permit writing") from None
    work = Workspace(name, partial, elapsed or 0.0, {key: found["digest"] for key, found in digests.items()})
    log.info("%s: %s %s", name, "starting" if elapsed is None else "resuming", out)
    yield work
    manifest = {
        "stage": name,
        "format": FORMATS.get(name, 1),
        "settings": json.loads(settings.canonical()),
        "seed": settings.seed,
        "inputs": digests,
        "fingerprint": fingerprint,
        "versions": versions(),
        "code": code,
        "git_commit": _git_commit(),
        "wall_seconds": round(work.wall_seconds, 3),
        "device": _device(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    manifest |= work.facts
    manifest["digest"] = work.digest or content_digest(partial)
    write_json(work.scratch / MANIFEST, manifest)  # a half-written one must not enter the digest
    (work.scratch / MANIFEST).replace(partial / MANIFEST)
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
    """What an input's content is known by. Raises StudyError if it is missing, or of a format that is not read."""
    if not path.exists():
        raise StudyError(f"input `{key}`: no such file or folder: {path}; run the rule that makes it first")
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        check_format(key, path, manifest)
        return str(manifest["digest"])
    try:
        return content_digest(path)
    except OSError as error:
        raise StudyError(
            f"input `{key}`: {error.filename or path}: cannot be read ({error.strerror}); permit reading it"
        ) from None


def content_digest(path: Path) -> str:
    """SHA-256 over a file, or over a folder's files and their names, without what is only there to resume."""
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        top = file.relative_to(path).parts[:1]
        if file.name not in (MANIFEST, ".snakemake_timestamp") and top not in ((_STATE,), (_SCRATCH,)):
            total.update(f"{file.relative_to(path)}\0{file_digest(file)}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


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


def read_note(partial: Path) -> dict[str, Any] | None:
    """What a partial folder's note says: whose it is, and how far; None if there is none, or it was just deleted."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        state: dict[str, Any] = json.loads((partial / _STATE).read_text())
        return state
    return None


def _finished(folder: Path, fingerprint: str) -> bool:
    """Whether all work on a folder is done, with these settings and inputs."""
    return (folder / MANIFEST).is_file() and read_manifest(folder).get("fingerprint") == fingerprint


def _earlier(partial: Path, fingerprint: str) -> dict[str, Any] | None:
    """The note of earlier runs in a partial folder; None if it is not of these settings and inputs."""
    state = read_note(partial)
    return state if state and state["fingerprint"] == fingerprint else None


def _open(partial: Path, state: dict[str, Any], anew: bool) -> None:
    """Make the partial folder ready, empty if no earlier run can be continued, and note that it is this process'."""
    if anew and partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / _STATE, {**state, "owner": this_process()})


def _wait_for_owner(partial: Path) -> bool:
    """Wait while another process works in the folder; returns whether there was one.

    Snakemake killed leaves its jobs running: the same command, given again, must not write into their folders.
    """
    owner: dict[str, Any] | None = None
    waited = False
    while partial.is_dir():
        state = read_note(partial)
        owner = state["owner"] if state else owner  # the note goes a moment before the folder does
        if owner is None or (is_here(owner) and owner["pid"] == os.getpid()) or not lives(owner):
            break
        if not waited:
            place = f"process {owner['pid']}" if is_here(owner) else f"SLURM job {owner['job']}"
            log.info("waiting for %s, which is at work in %s", place, partial)
            waited = True
        time.sleep(_POLL if is_here(owner) else _POLL_ELSEWHERE)
    return waited


def _publish(partial: Path, out: Path) -> None:
    """Put a finished partial folder in the place of the artifact; killed anywhere, it can be done again."""
    old = out.with_name(out.name + ".old")
    if (partial / _SCRATCH).exists():
        shutil.rmtree(partial / _SCRATCH)
    (partial / _STATE).unlink(missing_ok=True)
    if old.exists():  # a run was killed while it deleted it
        shutil.rmtree(old)
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
