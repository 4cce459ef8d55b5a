"""One command by several processes: what it says and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from rlgen.data.problems import make_problems
from rlgen.launch import Saving
from rlgen.study.sections import SftArm
from rlgen.study.stages import ProblemsSettings, SftSettings
from tests.evaluation.tiny import make_tiny

Words = list[str]


@pytest.fixture
def command(tmp_path: Path) -> Words:
    """`rlgen sft` by two processes, 16 steps."""
    sources = [{"source": "miniature", "task": "mod", "items": 32}]
    make_problems(ProblemsSettings.model_validate({"problems": {"sources": sources}}), out=tmp_path / "problems")
    arm = SftArm(name="sft", method="sft", batch_size=2, checkpoints=1, max_length=96)
    places = ["--base", str(make_tiny(tmp_path / "tiny")), "--problems", str(tmp_path / "problems")]
    settings = ["--settings", SftSettings(arm=arm).canonical(), "--out", str(tmp_path / "sft")]
    return [sys.executable, "-m", "rlgen", "sft", "--processes", "2", *settings, *places]


def run(command: Words) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_what_is_made_already_ends_well_in_all_processes(command: Words, tmp_path: Path) -> None:
    first = run(command)
    assert first.returncode == 0, first.stderr[-3000:]
    assert first.stderr.count("sft: done in") == 1, "one process speaks for all"
    before = (tmp_path / "sft" / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "sft").rename(tmp_path / "sft.partial")  # killed while it published
    again = run(command)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "sft: done before" in again.stderr
    assert (tmp_path / "sft" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_an_error_is_said_without_a_traceback_and_is_the_exit_status(command: Words) -> None:
    settings = command.index("--settings") + 1
    command[settings] = command[settings].replace('"max_length":96', '"max_length":8')
    ended = run(command)
    assert ended.returncode == 2
    assert "error: " in ended.stderr
    assert "arms[sft].max_length" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_stops_and_can_be_gone_on_with(command: Words, tmp_path: Path) -> None:
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "sft.partial").exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM, said[-3000:]
    assert not (tmp_path / "sft").exists()
    assert run(command).returncode == 0
    assert (tmp_path / "sft" / "model.safetensors").is_file()


def test_saving_takes_no_more_than_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("rlgen.launch.time.monotonic", lambda: now[0])
    saving, dues = Saving(seconds=5.0, share=0.1), []
    for _ in range(300):  # a step takes a second, a save ten
        now[0] += 1
        if saving.due():
            dues.append(now[0])
            saving.begin()
            now[0] += 10
            saving.end()
    assert dues[0] == 106.0
    pauses = [later - earlier - 10 for earlier, later in pairwise(dues)]
    assert set(pauses) == {101.0}
