"""What rules are given, and what stands before their commands."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from rlgen.study import parse_study
from rlgen.study.rules import Rules

GOOD = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())


def rules(**resources: dict[str, Any]) -> Rules:
    return Rules(parse_study(copy.deepcopy(GOOD) | {"resources": resources}))


def test_every_try_has_more_memory_up_to_three_times() -> None:
    mem_mb = rules(fit={"mem_mb": 1000}).resources("fit")["mem_mb"]
    assert [mem_mb(None, attempt) for attempt in (1, 2, 3, 4, 5)] == [1000, 2000, 3000, 3000, 3000]


def test_a_profile_s_model_of_gpu_is_not_for_jobs_without_gpus() -> None:
    found = rules(fit={"gpus": 2})
    assert found.resources("fit")["gpu"] == 2
    assert "gpu_model" not in found.resources("fit")
    assert "gpu" not in found.resources("dump")
    assert found.resources("dump")["gpu_model"] == ""


def test_nothing_stands_before_a_command_that_the_executor_submits() -> None:
    found = rules()
    assert not found.submitted("grpo")
    assert found.launch("grpo", {"slurm_partition": "gpu"})(None, attempt=1) == ""


def test_what_submits_a_command_says_all_that_its_job_is_given() -> None:
    given = {"launcher": "submitit", "nodes": 2, "gpus": 2, "threads": 8, "mem_mb": 1000, "runtime": 240}
    found = rules(grpo=given | {"gpus": 1}, fit=given)
    assert found.submitted("grpo")
    assert found.processes("grpo") == 2
    site = {"slurm_partition": "gpu", "constraint": "a&b"}
    assert found.launch("fit", site)(SimpleNamespace(crosscoder="base-rl"), attempt=2) == (
        "submit --nodes 2 --tasks-per-node 2 --threads 8 --gpus 2 --mem-mb 2000 --minutes 240"
        " --site partition=gpu --site 'constraint=a&b' -- "
    )
