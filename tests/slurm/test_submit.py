"""What submitit submits: over two nodes, requeued, interrupted, picked up; always the same bytes in the end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm import commands
from tests.slurm.cluster import Cluster
from tests.slurm.commands import RLGEN, Words
from tests.slurm.jobs import all_are, said, sbatch
from tests.workflow.study_run import contents

pytestmark = pytest.mark.slow


def submit(words: Words, out: Path, *options: str) -> Words:
    """The command that has a stage's command run as a job of its own."""
    return [*RLGEN, "submit", "--site=partition=low", *options, "--", *words, "--out", str(out)]


def start(command: Words) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: subprocess.Popen[str], seconds: float = 600) -> str:
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
    deadline = time.monotonic() + 180
    while not (out.with_name(f"{out.name}.partial") / ".stage.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    names = said("squeue", "--noheader", "--format=%A %o").splitlines()
    return next(line.split()[0] for line in names if f"{out.name}.job" in line)


def test_two_nodes_train_what_two_processes_of_one_train(cluster: Cluster, tmp_path: Path) -> None:
    words = [*commands.sft(tmp_path, steps=8), "--processes", "2"]
    finish(start(submit(words, tmp_path / "nodes", "--nodes=2", "--mem-mb=3000")))
    job = said("sacct", "-nXP", "--format=JobID").splitlines()[-1]
    all_are([job], "COMPLETED")
    assert said("sacct", "-nXP", "--format=NNodes", "--jobs", job) == "2"
    assert contents(tmp_path / "nodes", str(tmp_path / "nodes")) == undisturbed(words, tmp_path / "one")
    assert not (tmp_path / "nodes.job").exists()


def test_time_limits_in_the_middle_of_grpo_and_of_a_fit_leave_no_trace(cluster: Cluster, tmp_path: Path) -> None:
    stages = {"grpo": commands.grpo(tmp_path, steps=500), "fit": commands.fit(tmp_path, epochs=200)}
    alone = [start([*RLGEN, *words, "--out", str(tmp_path / "alone" / name)]) for name, words in stages.items()]
    jobs = [start(submit(words, tmp_path / name, "--minutes=1")) for name, words in stages.items()]
    for process in (*jobs, *alone):
        printed = finish(process)
        if process in jobs:
            assert "stopped, and goes on from here" in printed
            assert "resuming" in printed
    for name in stages:
        assert contents(tmp_path / name, str(tmp_path / name)) == contents(
            tmp_path / "alone" / name, str(tmp_path / "alone" / name)
        )


def test_a_preempted_job_saves_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    words, out = commands.fit(tmp_path, epochs=40), tmp_path / "fit"
    process = start(submit(words, out, "--nodes=2", "--tasks-per-node=1"))
    job = job_of(out)
    time.sleep(3)
    sbatch("sleep 1", "--partition=high", "--nodes=2", "--mem=4500")
    printed = finish(process)
    assert f"job {job}: submitted" in printed
    assert "stopped, and goes on from here" in printed
    assert "fit: resuming" in printed


def test_a_job_is_picked_up_again_when_what_waits_for_it_was_killed(cluster: Cluster, tmp_path: Path) -> None:
    words = commands.fit(tmp_path, epochs=60)
    first = start(submit(words, tmp_path / "fit"))
    job = job_of(tmp_path / "fit")
    first.kill()
    printed = finish(start(submit(words, tmp_path / "fit")))
    assert f"job {job}: picked up" in printed
    assert "fit: starting" in printed, "the log is told from its beginning"
    assert said("sacct", "-nXP", "--format=JobID").splitlines()[-1] == job, "there is no other job"
    assert (tmp_path / "fit" / "manifest.json").exists()


def test_what_was_made_while_nobody_waited_is_not_made_again(cluster: Cluster, tmp_path: Path) -> None:
    """Snakemake deletes what it did not see finished, and runs the command again."""
    words, out = commands.fit(tmp_path, epochs=10), tmp_path / "fit"
    first = start(submit(words, out))
    job = job_of(out)
    first.kill()
    all_are([job], "COMPLETED")
    made = contents(out, str(out))
    shutil.rmtree(out)
    assert "was made while nobody waited" in finish(start(submit(words, out)))
    assert contents(out, str(out)) == made
    assert not (tmp_path / "fit.job").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_what_it_started_is_cancelled_when_it_is_interrupted(
    cluster: Cluster, tmp_path: Path, signum: signal.Signals
) -> None:
    process = start(submit(commands.fit(tmp_path, epochs=1000), tmp_path / "fit"))
    job = job_of(tmp_path / "fit")
    process.send_signal(signum)
    assert process.wait(timeout=90) == 128 + signum
    all_are([job], "CANCELLED by 0")


def test_a_job_of_other_settings_is_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    first = start(submit(commands.fit(tmp_path, epochs=1000), tmp_path / "fit"))
    job = job_of(tmp_path / "fit")
    first.kill()
    printed = finish(start(submit(commands.fit(tmp_path, epochs=2), tmp_path / "fit")))
    assert f"job {job}: cancelled, as it is of other settings" in printed


def test_a_stage_that_fails_fails_the_rule_and_says_why(cluster: Cluster, tmp_path: Path) -> None:
    words = commands.sft(tmp_path, steps=8)
    words[words.index("--settings") + 1] = "{}"
    process = start(submit(words, tmp_path / "sft"))
    printed, _ = process.communicate(timeout=180)
    assert process.returncode == 2
    assert "error: --settings: not a SftSettings" in printed
    assert "rlgen sft ended with status 2" in printed


def test_without_slurm_it_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    words = [*commands.sft(tmp_path, steps=8), "--processes", "2"]
    finish(start(submit(words, tmp_path / "sft", "--nodes=2")))
    assert contents(tmp_path / "sft", str(tmp_path / "sft")) == undisturbed(words, tmp_path / "alone")


def test_a_stage_waits_for_a_job_on_another_machine_that_is_at_work_in_its_folder(
    cluster: Cluster, tmp_path: Path
) -> None:
    words = commands.fit(tmp_path, epochs=2)
    job = sbatch("sleep 40", "--mem=500")
    partial = tmp_path / "fit.partial"
    partial.mkdir()
    owner = {"host": "elsewhere", "pid": 1, "born": 0.0, "job": job}
    (partial / ".stage.json").write_text(json.dumps({"fingerprint": "", "elapsed": 0.0, "owner": owner}))
    printed = finish(start([*RLGEN, *words, "--out", str(tmp_path / "fit")]))
    assert f"waiting for SLURM job {job}" in printed
    all_are([job], "COMPLETED")
