"""Partial folder, resume, atomic publish, manifest."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlgen.cli import readable_errors
from rlgen.errors import StudyError
from rlgen.source import code_digest
from rlgen.stage import AlreadyMade, content_digest, read_manifest, stage
from rlgen.study.stages import PerturbSettings

ROOT = Path(__file__).parents[1]
SETTINGS = PerturbSettings(seed=3)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "input.txt"
    path.write_text("one")
    return path


def make(out: Path, source: Path, settings: PerturbSettings = SETTINGS, fail: bool = False) -> list[str]:
    """A stage of two units; returns the units it had to do. Fails after the first if asked."""
    did = []
    with stage("perturb", settings, {"source": source}, out) as work:
        for unit in ("first", "second"):
            if not (work.folder / unit).exists():
                did.append(unit)
                (work.folder / unit).write_text(f"{unit} {source.read_text()}")
            (work.scratch / "state").write_text("gone when published")
            if fail:
                raise KeyboardInterrupt
    return did


def test_publishes_whole_with_manifest(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "made" / "artifact"
    assert make(out, source) == ["first", "second"]
    assert sorted(p.name for p in out.iterdir()) == ["first", "manifest.json", "second"]
    manifest = read_manifest(out)
    assert manifest["seed"] == 3
    assert manifest["settings"] == {"seed": 3}
    assert manifest["inputs"]["source"] == {"path": str(source), "digest": content_digest(source)}
    assert manifest["wall_seconds"] >= 0
    assert manifest["peak_memory_bytes"] > 1e6
    assert manifest["digest"] == content_digest(out)
    assert manifest["code"] == code_digest("perturb")
    assert not list(out.parent.glob("*.partial"))


def test_resumes_from_the_last_complete_unit(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "artifact"
    with pytest.raises(KeyboardInterrupt):
        make(out, source, fail=True)
    assert not out.exists()
    assert make(out, source) == ["second"]


def test_what_other_code_began_is_not_called_this_code_s(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "artifact"
    with pytest.raises(KeyboardInterrupt):
        make(out, source, fail=True)
    note = tmp_path / "artifact.partial" / ".stage.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "code": "other"}))
    assert make(out, source) == ["second"]
    assert read_manifest(out)["code"] == "other"


def test_starts_anew_when_settings_differ(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "artifact"
    with pytest.raises(KeyboardInterrupt):
        make(out, source, fail=True)
    assert make(out, source, PerturbSettings(seed=4)) == ["first", "second"]


def test_starts_anew_when_an_input_differs(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "artifact"
    with pytest.raises(KeyboardInterrupt):
        make(out, source, fail=True)
    source.write_text("two")
    assert make(out, source) == ["first", "second"]
    assert (out / "first").read_text() == "first two"


def test_replaces_an_artifact_that_is_there(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "artifact"
    make(out, source)
    (out / "stale").touch()
    make(out, source)
    assert not (out / "stale").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact", "input.txt"]


def test_missing_input_is_told(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="input `source`: no such file"):
        make(tmp_path / "artifact", tmp_path / "none")


def test_unfinished_artifact_has_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="not finished"):
        read_manifest(tmp_path)


def test_unwritable_place_is_told(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StudyError, match="cannot be written"):
        make(tmp_path / "file" / "artifact", source)


def test_manifest_is_json_of_one_digest(tmp_path: Path, source: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    make(first, source)
    make(second, source)
    digests = [json.loads((p / "manifest.json").read_text())["digest"] for p in (first, second)]
    assert digests[0] == digests[1]


HOLDER = """
import sys, time
from pathlib import Path
from tests.test_stage import SETTINGS
from rlgen.stage import stage
source, out = map(Path, sys.argv[1:])
with stage("perturb", SETTINGS, {"source": source}, out) as work:
    (work.folder / "first").write_text("by the other process")
    print("at work", flush=True)
    time.sleep(2)
    (work.folder / "second").write_text("by the other process")
"""


@pytest.mark.parametrize("killed", [False, True])
def test_waits_for_another_process_at_work_there(tmp_path: Path, source: Path, killed: bool) -> None:
    out = tmp_path / "artifact"
    other = subprocess.Popen([sys.executable, "-c", HOLDER, source, out], stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout is not None
    assert other.stdout.readline() == b"at work\n"
    if killed:
        other.kill()
        other.wait(timeout=10)
    if killed:
        assert make(out, source) == ["second"]
    else:
        with pytest.raises(AlreadyMade):
            make(out, source)
    assert other.wait(timeout=10) == (-9 if killed else 0)
    assert sorted(p.name for p in out.iterdir()) == ["first", "manifest.json", "second"]
    assert (out / "second").read_text() == ("second one" if killed else "by the other process")


SQUEUE = """#!/bin/sh
# Job 77 is gone when it is asked for the third time.
cd "$(dirname "$0")" && echo asked >> asked && [ "$(wc -l < asked)" -ge 3 ] || echo 77
"""


@pytest.fixture
def begun_elsewhere(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact that SLURM job 77, which this process is of, began on another machine."""
    out = tmp_path / "artifact"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(KeyboardInterrupt):
        make(out, source, fail=True)
    note = tmp_path / "artifact.partial" / ".stage.json"
    state = json.loads(note.read_text())
    assert state["owner"]["job"] == "77"
    note.write_text(json.dumps({**state, "owner": {**state["owner"], "host": "node7"}}))
    return out


def test_waits_for_a_slurm_job_at_work_there_on_another_machine(
    begun_elsewhere: Path, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`squeue` is a stand-in that knows one job."""
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin" / "squeue"
    squeue.write_text(SQUEUE)
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    monkeypatch.setattr("rlgen.stage._POLL_ELSEWHERE", 0.01)
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert make(begun_elsewhere, source) == ["second"]
    assert len((tmp_path / "bin" / "asked").read_text().splitlines()) == 3


def test_a_job_that_slurm_started_again_elsewhere_does_not_wait_for_itself(begun_elsewhere: Path, source: Path) -> None:
    assert make(begun_elsewhere, source) == ["second"]


def test_what_another_process_made_of_other_settings_is_made_anew(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "artifact"
    other = subprocess.Popen([sys.executable, "-c", HOLDER, source, out], stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout is not None
    assert other.stdout.readline() == b"at work\n"
    assert make(out, source, PerturbSettings(seed=4)) == ["first", "second"]
    assert other.wait(timeout=10) == 0


def test_the_other_process_may_end_while_its_note_is_read(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artifact"
    with pytest.raises(KeyboardInterrupt):
        make(out, source, fail=True)
    read = Path.read_text

    def gone(path: Path, **given: Any) -> str:
        if path.name == ".stage.json":
            path.unlink(missing_ok=True)
        return read(path, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", gone)
        assert make(out, source) == ["first", "second"]


def test_what_cannot_be_read_is_not_called_unwritable(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artifact"
    with pytest.raises(KeyboardInterrupt):
        make(out, source, fail=True)
    read = Path.read_text

    def refused(path: Path, **given: Any) -> str:
        if path.name == ".stage.json":
            raise PermissionError(13, "Permission denied")
        return read(path, **given)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(PermissionError):
        make(out, source)


# ---------------------------------------------------------------------------------- killed while publishing


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_killed_before_the_manifest_it_repeats_no_unit(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artifact"
    with monkeypatch.context() as patch:
        patch.setattr("rlgen.stage._git_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            make(out, source)
    digest = content_digest
    with monkeypatch.context() as patch:
        patch.setattr("rlgen.stage.content_digest", lambda path: digest(path) if path.is_file() else killed())
        with pytest.raises(KeyboardInterrupt):
            make(out, source)
    assert (tmp_path / "artifact.partial" / ".scratch" / "state").is_file()
    assert make(out, source) == []
    assert read_manifest(out)["digest"] == content_digest(out)


@pytest.mark.parametrize(
    "blow", ["rlgen.stage._publish", "shutil.rmtree", "pathlib.Path.unlink", "pathlib.Path.replace"]
)
def test_killed_after_the_manifest_it_is_published_at_once(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, blow: str
) -> None:
    out, undisturbed = tmp_path / "artifact", tmp_path / "undisturbed"
    make(undisturbed, source)
    with pytest.raises(KeyboardInterrupt):
        make(out, source, fail=True)
    replace = Path.replace
    with monkeypatch.context() as patch:
        if blow == "pathlib.Path.replace":
            patch.setattr(blow, lambda path, to: killed() if to == out else replace(path, to))
        else:
            patch.setattr(blow, killed)
        with pytest.raises(KeyboardInterrupt):
            make(out, source)
    assert not out.exists()
    with pytest.raises(AlreadyMade):
        make(out, source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact", "input.txt", "undisturbed"]
    assert sorted(p.name for p in out.iterdir()) == ["first", "manifest.json", "second"]
    assert read_manifest(out)["digest"] == content_digest(out) == read_manifest(undisturbed)["digest"]
    assert make(out, source) == ["first", "second"], "asked again, it is made again"


def test_finished_but_unpublished_work_of_other_settings_is_made_anew(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artifact"
    with monkeypatch.context() as patch:
        patch.setattr("rlgen.stage._publish", killed)
        with pytest.raises(KeyboardInterrupt):
            make(out, source)
    assert make(out, source, PerturbSettings(seed=4)) == ["first", "second"]
    assert read_manifest(out)["seed"] == 4


def test_killed_while_the_old_artifact_is_deleted(tmp_path: Path, source: Path) -> None:
    out, old = tmp_path / "artifact", tmp_path / "artifact.old"
    make(out, source)
    old.mkdir()
    (old / "left").touch()
    make(out, source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact", "input.txt"]


def test_a_finished_artifacts_digest_is_of_its_names_and_bytes(tmp_path: Path, source: Path) -> None:
    """The digest that earlier releases gave, so that nobody's finished work reruns."""
    out = tmp_path / "artifact"
    make(out, source)
    assert content_digest(out) == "130de26721739f4ab58a48154cad1be260cee46f33c9226ecd7f85b50d6f242a"


def test_the_command_line_takes_what_is_made_already_as_success() -> None:
    with readable_errors():
        raise AlreadyMade
