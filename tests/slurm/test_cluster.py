"""The cluster itself does what the other tests count on."""

from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import NODES, Cluster
from tests.slurm.jobs import all_are, sbatch

pytestmark = pytest.mark.slow


def test_jobs_with_a_gpu_each_see_different_ones(cluster: Cluster, tmp_path: Path) -> None:
    show = 'echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $SLURM_JOB_GPUS"; sleep 8'
    jobs = [sbatch(show, "--gpus=1", "--mem=500", output=tmp_path / f"{index}.log") for index in range(4)]
    all_are(jobs, "COMPLETED")
    seen = [tuple((tmp_path / f"{index}.log").read_text().split()) for index in range(4)]
    assert sorted(seen) == [(node, gpu, gpu) for node in NODES for gpu in ("0", "1")]


def test_a_job_of_the_higher_partition_preempts_one_that_then_starts_again(cluster: Cluster, tmp_path: Path) -> None:
    logs = [tmp_path / f"{node}.log" for node in NODES]
    options = ("--requeue", "--mem=4000", "--open-mode=append")
    low = [sbatch("echo started; sleep 20", *options, output=log) for log in logs]
    all_are(low, "RUNNING")
    high = sbatch("true", "--partition=high", "--mem=4000")
    all_are([*low, high], "COMPLETED")
    assert sorted(log.read_text().count("started") for log in logs) == [1, 2]


def test_a_job_that_takes_more_memory_than_it_asked_for_is_killed(cluster: Cluster) -> None:
    hog = "python3 -c 'import time; x = bytearray(600_000_000); time.sleep(20)'"
    all_are([sbatch(hog, "--mem=300")], "FAILED")


def test_nothing_is_left_of_a_cluster_that_was_taken_down(cluster: Cluster) -> None:
    daemons = {"munged", "mariadbd", "slurmdbd", "slurmctld", *NODES}
    assert all(cluster.alive(name) for name in daemons)
    before = [process for process in psutil.process_iter() if process.name().startswith(("slurm", "munge", "maria"))]
    cluster.down()
    assert not any(cluster.alive(name) for name in daemons)
    assert not [p for p in before if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not cluster.folder.exists()
    cluster.up()
