"""What submitit submits: over two nodes, requeued, interrupted, picked up; always the same bytes in the end."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.slurm import commands
from tests.slurm.cluster import Cluster
from tests.slurm.commands import RLGEN, Words
from tests.slurm.jobs import said
from tests.workflow.study_run import contents

pytestmark = pytest.mark.slow


def submit(words: Words, out: Path, *options: str) -> Words:
    """The command that has a stage's command run as a job of its own."""
    return [*RLGEN, "submit", "--site=partition=low", *options, "--", *words, "--out", str(out)]


def start(command: Words) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: subprocess.Popen[str], seconds: float = 240) -> str:
    """What a command printed until it ended well."""
    printed, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, printed[-4000:]
    return printed


def undisturbed(words: Words, out: Path) -> dict[str, bytes]:
    """The artifact that a command makes by itself."""
    finish(start([*RLGEN, *words, "--out", str(out)]))
    return contents(out, str(out))


def job_of(out: Path) -> str:
    """The job that makes an artifact, once it is at work in its folder."""
    deadline = time.monotonic() + 60
    while not (out.with_name(f"{out.name}.partial") / ".stage.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    names = said("squeue", "--noheader", "--format=%A %o").splitlines()
    return next(line.split()[0] for line in names if f"{out.name}.job" in line)


def test_two_nodes_train_what_two_processes_of_one_train(cluster: Cluster, tmp_path: Path) -> None:
    words = [*commands.sft(tmp_path, steps=8), "--processes", "2"]
    finish(start(submit(words, tmp_path / "nodes", "--nodes=2", "--mem-mb=3000")))
    assert said("sacct", "-nXP", "--format=NNodes,State").splitlines()[-1] == "2|COMPLETED"
    assert contents(tmp_path / "nodes", str(tmp_path / "nodes")) == undisturbed(words, tmp_path / "one")
    assert not (tmp_path / "nodes.job").exists()
