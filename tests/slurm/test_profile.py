"""`profiles/slurm`: the same study as under `profiles/local`, and what the profile makes of jobs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.slurm.cluster import NODES, Cluster
from tests.workflow.study_run import ROOT, environment, snakemake, tiny_settings

pytestmark = pytest.mark.slow

QUICK = ("--slurm-init-seconds-before-status-checks=1", "--default-resources", "gpu_model=test")
"""Jobs here last seconds; every node's GPUs are of the model `test`."""
TIMES = ("jobs", "peak_memory_bytes", "wall_seconds")


def small_study(folder: Path) -> Path:
    """The tiny study without what only repeats a rule."""
    settings = tiny_settings()
    settings["tasks"]["transfer"].pop()
    settings["crosscoders"] = {"base-rl": settings["crosscoders"]["base-rl"]}
    settings["tracking"]["crosscoders"] = ["base-rl"]
    settings["activations"]["parts"] = 1
    settings["arms"][1]["checkpoints"] = 2
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def numbers(work: Path) -> dict[str, Any]:
    """A study's summary, without what differs from run to run."""
    summary = json.loads((work / "results/tiny/summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in TIMES}


def test_a_whole_study_has_the_summary_of_a_local_run(cluster: Cluster, tmp_path: Path) -> None:
    study = small_study(tmp_path)
    here, there = tmp_path / "here", tmp_path / "there"
    for work in (here, there):
        work.mkdir()
    snakemake(there, study, *QUICK, profile="slurm")
    snakemake(here, study)
    assert numbers(there) == numbers(here)
    assert "Nothing to be done" in snakemake(there, study, "--dry-run", profile="slurm")
    assert "Nothing to be done" in snakemake(there, study, "--dry-run"), "nor under the other profile"
    logs = {path.parent.name for path in (there / "logs/slurm").rglob("*_*.log")}
    assert logs == {"rule_dump", "rule_evaluate"}, "job arrays"


GPUS = """
from rlgen.study import parse_study
from rlgen.study.rules import Rules

rules_of = Rules(parse_study(config, source="configuration"))

rule all:
    default_target: True
    input: expand("{rule}/{number}", rule=["dump", "fit"], number=[1, 2]), "task/1"
"""
RULE = """
rule {name}:
    input: {after}
    output: "{name}/{{number}}"
    resources: **rules_of.resources("{name}")
    shell:
        "echo $SLURMD_NODENAME ${{{{CUDA_VISIBLE_DEVICES:-none}}}} > {{output}} && sleep 12"
"""


def test_jobs_that_ask_for_a_gpu_get_one_each_and_others_none(cluster: Cluster, tmp_path: Path) -> None:
    """As a job of an array (dump), by itself (fit), or without one though the profile names a model of GPU (task)."""
    settings = tiny_settings() | {"resources": {rule: {"gpus": 1, "mem_mb": 500} for rule in ("dump", "fit")}}
    settings["resources"]["task"] = {"mem_mb": 500}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "Snakefile").write_text(
        GPUS
        + "".join(
            RULE.format(name=name, after=after) for name, after in (("dump", "[]"), ("fit", "[]"), ("task", '"fit/1"'))
        )
    )
    words = [sys.executable, "-m", "snakemake", "--profile", str(ROOT / "profiles/slurm"), *QUICK]
    done = subprocess.run(
        [*words, "--configfile", "study.yaml"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [(tmp_path / rule / str(number)).read_text().split() for rule in ("dump", "fit") for number in (1, 2)]
    assert sorted(seen) == [[node, gpu] for node in NODES for gpu in ("0", "1")]
    assert (tmp_path / "task/1").read_text().split()[1:] == ["none"]
    assert len(list((tmp_path / "logs/slurm/rule_dump").glob("*_*.log"))) == 2, "an array"


def test_partitions_of_a_file_are_chosen_by_their_limits(cluster: Cluster, tmp_path: Path) -> None:
    """The file that `--slurm-partition-config` is given: short jobs go to one partition, long ones to the other."""
    partitions = {"high": {"max_runtime": 60, "max_gpu": 2}, "low": {"max_runtime": 240, "max_gpu": 2}}
    (tmp_path / "partitions.yaml").write_text(yaml.safe_dump({"partitions": partitions}))
    rules = "".join(
        f'rule {name}:\n    output: "{name}"\n    resources: runtime={minutes}, mem_mb=500\n'
        "    shell: 'echo $SLURM_JOB_PARTITION > {output}'\n"
        for name, minutes in (("short", 30), ("long", 120))
    )
    (tmp_path / "Snakefile").write_text(f'rule all:\n    input: "short", "long"\n{rules}')
    words = [sys.executable, "-m", "snakemake", "--profile", str(ROOT / "profiles/slurm"), *QUICK]
    subprocess.run(
        [*words, "--slurm-partition-config", "partitions.yaml"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert (tmp_path / "short").read_text() == "high\n"
    assert (tmp_path / "long").read_text() == "low\n"
