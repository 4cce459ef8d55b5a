"""How far a study is: what is done, at work, failed, interrupted, to be made again, or made by other code.

Told from the artifacts' manifests, the notes in partial folders and the logs, in seconds for thousands of artifacts.
What is to be made is what `snakemake -n` would make, but for what is not in manifests: that a file of the user's was
touched and is still the same, for instance, or what `snakemake --touch` was told.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rlgen import slurm
from rlgen.cluster.artifacts import Artifact, artifacts
from rlgen.cluster.logs import last_error
from rlgen.formats import FORMATS, MANIFEST, foreign
from rlgen.owner import is_here, lives
from rlgen.source import code_digest
from rlgen.stage import read_note
from rlgen.study import Study

State = Literal["done", "stale", "unneeded", "running", "failed", "interrupted", "outdated", "missing"]
STATES: tuple[State, ...] = ("done", "stale", "running", "failed", "interrupted", "outdated", "missing", "unneeded")
"""`stale`: done, by other code or versions. `outdated`: there, to be made anew. `unneeded`: gone, not asked for."""


@dataclass(frozen=True)
class Standing:
    """Where one artifact stands."""

    artifact: Artifact
    state: State
    note: str = ""
    """Why, how far, or where."""
    lines: tuple[str, ...] = ()
    """Last lines of a failed job's log."""
    unknown: bool = False
    """Whether it is done, but does not say by what code."""


def status(study: Study) -> list[Standing]:
    """Where every artifact of a study stands, each after those that it is made from."""
    return _Status(study).standings()


class _Status:
    def __init__(self, study: Study) -> None:
        self._artifacts = artifacts(study)
        self._by_path = {str(artifact.path): artifact for artifact in self._artifacts}
        self._manifests = {path: _manifest(Path(path)) for path in self._by_path}
        files = dict.fromkeys(path for artifact in self._artifacts for path in artifact.inputs)
        self._times = {path: _modified(Path(path)) for path in (*self._by_path, *files)}

    def standings(self) -> list[Standing]:
        """Of all artifacts, in order."""
        return [self._standing(artifact) for artifact in self._artifacts]

    def _standing(self, artifact: Artifact) -> Standing:
        path = str(artifact.path)
        note = read_note(artifact.path.with_name(f"{artifact.path.name}.partial"))
        if note and lives(note["owner"], self._running_jobs):
            return Standing(artifact, "running", _work(note))
        if path not in self._to_make:
            return self._finished(artifact) if self._is_there(path) else Standing(artifact, "unneeded")
        if lines := last_error(artifact.log, after=self._times[path]):
            return Standing(artifact, "failed", str(artifact.log), lines)
        if note:
            return Standing(artifact, "interrupted", _progress(note))
        return Standing(artifact, "outdated" if self._is_there(path) else "missing", self._to_make[path])

    def _finished(self, artifact: Artifact) -> Standing:
        manifest = self._manifests[str(artifact.path)] or {}
        if (form := manifest.get("format", 1)) != (now := FORMATS.get(artifact.rule, 1)):
            return Standing(artifact, "stale", f"of format {form}, which is {now} here")
        if other := foreign(manifest):
            return Standing(artifact, "stale", f"made by {other}, another release than the one here")
        if (code := manifest.get("code")) is None:
            return Standing(artifact, "done", unknown=True)
        if code != code_digest(artifact.rule):
            return Standing(artifact, "stale", "made by other code")
        return Standing(artifact, "done")

    @cached_property
    def _running_jobs(self) -> set[str]:
        return slurm.running()

    @cached_property
    def _to_make(self) -> dict[str, str]:
        """Why an artifact is to be made, of all that are.

        As Snakemake has it: what hangs on something that is made is made again; what is gone, only if such needs it.
        """
        users: dict[str, list[Artifact]] = {}
        for artifact in self._artifacts:
            for path in artifact.inputs:
                users.setdefault(path, []).append(artifact)
        found: dict[str, str] = {}
        own = [(str(artifact.path), why) for artifact in self._artifacts if (why := self._reason(artifact, users))]
        left = deque(own)
        while left:
            path, why = left.popleft()
            if path in found:
                continue
            found[path] = why
            left += [(str(user.path), f"made from {path}, which is made anew") for user in users.get(path, [])]
            needed = [path for path in self._by_path[path].inputs if path in self._by_path and not self._is_there(path)]
            left += [(path, "") for path in needed]
        return found

    def _reason(self, artifact: Artifact, users: Mapping[str, list[Artifact]]) -> str | None:
        """Why an artifact is to be made on its own account; None if it is not."""
        path = str(artifact.path)
        made = self._times[path]
        if not self._is_there(path) or made is None:
            return None if path in users else "it is not there"
        manifest = self._manifests[path]
        if manifest is not None:
            now = json.loads(artifact.settings.canonical())
            if changed := changes(manifest["settings"], now):
                return f"other settings: {', '.join(changed)}"
            if artifact.rule not in ("summary", "report") and (other := _other_inputs(artifact, manifest["inputs"])):
                return f"other inputs: {other}"
        newer = [path for path in artifact.inputs if (self._times[path] or 0.0) > made]
        return f"older than {newer[0]}" if newer else None

    def _is_there(self, path: str) -> bool:
        return self._times[path] is not None


def changes(before: Any, now: Any, key: str = "") -> list[str]:
    """Keys of settings that differ, as `crosscoder.k 8 -> 16`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [found for k in keys for found in changes(before.get(k), now.get(k), f"{key}.{k}" if key else k)]
    return [] if before == now else [f"{key} {_shown(before)} -> {_shown(now)}"]


def _shown(value: Any) -> str:
    text = "default" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _other_inputs(artifact: Artifact, recorded: Mapping[str, Mapping[str, str]]) -> str | None:
    """An input that an artifact was not made from, or one that it no longer is; folders stand for what is in them."""
    before, now = {found["path"] for found in recorded.values()}, set(artifact.inputs)
    for these, those in ((now - before, before), (before - now, now)):
        for path in sorted(these):
            if not any(path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in those):
                return path
    return None


def _manifest(path: Path) -> dict[str, Any] | None:
    """An artifact's manifest; the summary, a file, holds its own."""
    try:
        if path.suffix == ".json":
            found: dict[str, Any] | None = json.loads(path.read_text()).get("manifest")
        else:
            found = json.loads((path / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found


def _modified(path: Path) -> float | None:
    """When Snakemake takes a file or folder for changed; None if it is not there."""
    for place in (path / ".snakemake_timestamp", path):
        try:
            return place.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            continue
    return None


def _work(note: Mapping[str, Any]) -> str:
    """Who is at work, and how far."""
    owner = note["owner"]
    job = f"SLURM job {owner['job']}, " if owner.get("job") else ""
    who = f"{job}process {owner['pid']}{'' if is_here(owner) else ' on ' + owner['host']}"
    return f"{who}, {_progress(note)}"


def _progress(note: Mapping[str, Any]) -> str:
    seconds = f"{note['elapsed']:.0f} s of work"
    if "progress" not in note:
        return f"no progress noted, {seconds}"
    done, total, unit = (note["progress"][key] for key in ("done", "total", "unit"))
    return f"{done:,}/{total:,} {unit} ({done / max(total, 1):.0%}), {seconds}"
