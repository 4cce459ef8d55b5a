"""What goes wrong on clusters, in the middle of a GRPO arm and of a fit: both end as if nothing had."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.slurm.cluster import Cluster
from tests.slurm.jobs import said, sbatch
from tests.slurm.test_profile import QUICK
from tests.workflow.study_run import command, contents, environment, snakemake, tiny_settings

pytestmark = pytest.mark.slow

TARGETS = ("results/tiny/models/rl", "results/tiny/crosscoders/base-sft")


class Study:
    """A copy of the finished tiny study whose GRPO arm and one of whose crosscoders are to be made anew, and longer."""

    def __init__(self, finished: Path, work: Path, **resources: Any) -> None:
        self.work = work
        shutil.copytree(finished, work, symlinks=True)
        settings = tiny_settings() | {"resources": resources}
        settings["arms"][1]["epochs"] = 4
        settings["crosscoders"]["base-sft"]["epochs"] = 70
        self.file = work / "study.yaml"
        self.file.write_text(yaml.safe_dump(settings))
        for target in TARGETS:
            shutil.rmtree(work / target)

    def start(self) -> subprocess.Popen[str]:
        """Snakemake, at work on both."""
        with (self.work / "printed").open("a") as printed:
            words = [*command(self.work, self.file, "slurm"), *QUICK, "--", *TARGETS]
            return subprocess.Popen(words, stdout=printed, stderr=printed, text=True, env=environment())

    def until_saved(self) -> None:
        """Wait until both stages have saved a state to go on from."""
        deadline = time.monotonic() + 240
        while not all(self._saved(target) for target in TARGETS):
            assert time.monotonic() < deadline, (self.work / "printed").read_text()[-3000:]
            time.sleep(0.2)

    def lost(self) -> dict[str, float]:
        """Seconds since each stage's last state, which a blow that falls now would cost."""
        return {target.split("/")[-1]: round(time.time() - max(self._saved(target)), 1) for target in TARGETS}

    def finish(self, snakemake: subprocess.Popen[str]) -> dict[str, dict[str, bytes]]:
        """Wait for Snakemake, and read what was made."""
        status = snakemake.wait(timeout=600)
        assert status == 0, (self.work / "printed").read_text()[-5000:]
        return self.made()

    def made(self) -> dict[str, dict[str, bytes]]:
        """Both artifacts' files."""
        return {target: contents(self.work / target, target) for target in TARGETS}

    def _saved(self, target: str) -> list[float]:
        scratch = self.work / f"{target}.partial" / ".scratch"
        marks = [*scratch.rglob("latest.json"), *scratch.rglob("complete")]
        return [mark.stat().st_mtime for mark in marks if mark.exists()]


@pytest.fixture(scope="session")
def undisturbed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What a run that is left in peace makes of both."""
    study = Study(finished, tmp_path_factory.mktemp("undisturbed") / "work")
    snakemake(study.work, study.file, "--", *TARGETS)
    return study.made()


def preempted(cluster: Cluster, study: Study, running: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """A job of the higher partition wants both nodes."""
    sbatch("sleep 1", "--partition=high", "--nodes=2", "--mem=4500")
    return running


def node_down(cluster: Cluster, study: Study, running: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """A node fails, with what runs on it."""
    node = said("squeue", "--noheader", "--states=RUNNING", "--format=%N").splitlines()[0]
    cluster.crash_node(node)
    return running


def controller_down(cluster: Cluster, study: Study, running: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """The scheduler does not answer for a minute."""
    cluster.stop("slurmctld")
    time.sleep(60)
    cluster.start("slurmctld")
    return running


def snakemake_killed(cluster: Cluster, study: Study, running: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Snakemake is killed, leaves its jobs and a lock, and is started again."""
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    locks = study.work / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text("".join(f"{target}\n" for target in TARGETS))
    return study.start()


Fault = Callable[[Cluster, Study, subprocess.Popen[str]], subprocess.Popen[str]]


@pytest.mark.parametrize("fault", [preempted, node_down, controller_down, snakemake_killed])
def test_ends_as_if_nothing_had_happened(
    fault: Fault,
    cluster: Cluster,
    finished: Path,
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    study = Study(finished, tmp_path / "work")
    running = study.start()
    study.until_saved()
    record_property("seconds lost", study.lost())
    print(fault.__name__, study.lost())
    assert study.finish(fault(cluster, study, running)) == undisturbed


def test_a_job_killed_for_its_memory_is_given_more(
    cluster: Cluster,
    finished: Path,
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    study = Study(finished, tmp_path / "work", grpo={"mem_mb": 450}, fit={"mem_mb": 450})
    assert study.finish(study.start()) == undisturbed
    assert "exceeded memory limit" in "".join(log.read_text() for log in (study.work / "logs/slurm").rglob("*.log"))
