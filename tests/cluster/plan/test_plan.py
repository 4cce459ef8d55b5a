"""`rlgen plan` over real DAGs: what it counts, what it believes, what it says."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner, Result

from rlgen.cli import app
from rlgen.cluster.dag import Dag, read_dag
from rlgen.cluster.plan.estimate import Plan
from rlgen.cluster.plan.text import lines
from rlgen.cluster.plan.work import CPU, machine_of
from rlgen.errors import StudyError
from rlgen.study import parse_study
from tests.cluster.made_up import ROOT, dag, job

PROFILE = ["--profile", str(ROOT / "profiles/local")]
SNAKEFILE = ["--snakefile", str(ROOT / "workflow/Snakefile")]
STUDY = ROOT / "workflow/studies/qwen3-4b.yaml"


def plan(*arguments: str) -> Result:
    """`rlgen plan` in a process of its own would be the same: nothing of it stays."""
    return CliRunner().invoke(app, ["plan", "--profile", PROFILE[1], *SNAKEFILE, *arguments])


@pytest.fixture(scope="module")
def of_4b(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plan")
    result = plan("--configfile", str(STUDY), "--directory", str(folder), "--cores", "512", "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def rule(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in found["rules"] if entry["rule"] == name)


def test_the_paper_s_stores_take_what_400_million_tokens_of_four_models_take(of_4b: dict[str, Any]) -> None:
    activations = 4 * 400e6 * 2560 * 2 + 8 * 4e6 * 2560 * 2  # and checkpoints
    assert rule(of_4b, "dump")["written"] == pytest.approx(activations, rel=0.02)
    assert of_4b["total"]["written_bytes"] > activations


def test_the_causal_part_of_4b_stays_under_24_gpu_hours(of_4b: dict[str, Any]) -> None:
    hours = sum(rule(of_4b, name)["gpu_hours"] for name in ("localise", "intervene"))
    assert 0 < hours < 24


def test_reinforcement_learning_is_what_costs_most(of_4b: dict[str, Any]) -> None:
    most = max(of_4b["rules"], key=lambda entry: float(entry["gpu_hours"]))
    assert most["rule"] == "grpo"
    assert any("grpo" in name for name in of_4b["critical_path"])
    assert of_4b["total"]["critical_seconds"] <= of_4b["total"]["wall_seconds"]


def test_adopting_reads_the_weights_to_check_them(of_4b: dict[str, Any]) -> None:
    """Twice: of the base of 4 billion weights and the teacher of 32 billion, 2 bytes each, at 1 GB/s."""
    adopt = rule(of_4b, "adopt")
    assert adopt["jobs"] == 2
    assert 2 * 2 * 36 < adopt["seconds"] < 2 * 2 * 36 + 300
    assert adopt["gpus"] == 1
    assert adopt["memory"] == pytest.approx(2 * 32.8e9, rel=0.02)


def test_fewer_draws_cost_less(tmp_path: Path) -> None:
    hours = []
    for draws in (20, 200):
        study = tmp_path / f"{draws}.yaml"
        study.write_text(STUDY.read_text().replace("groups: [transfer", f"draws: {draws}\n  groups: [transfer"))
        result = plan("--configfile", str(study), "--directory", str(tmp_path), "--json")
        hours.append(rule(json.loads(result.stdout), "intervene")["gpu_hours"])
    assert 2 < hours[1] / hours[0] < 10


def test_every_reason_is_told(of_4b: dict[str, Any]) -> None:
    for entry in of_4b["rules"]:
        assert sum(entry["reasons"].values()) == entry["jobs"]
    assert rule(of_4b, "fit")["reasons"] == {"Missing output files": 12}


def measured(folder: Path, seconds: float) -> Path:
    """A benchmark file as Snakemake writes it."""
    path = folder / f"{seconds}.tsv"
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t-\n")
    return path


def done(folder: Path, *seconds: float) -> Dag:
    """Jobs of one rule that took so long."""
    return dag([job("summary", benchmark=measured(folder, each), needed=False) for each in seconds])


def test_what_jobs_took_takes_the_place_of_the_model(tmp_path: Path) -> None:
    todo = dag([job("summary")])
    assert Plan(todo, CPU).seconds[0] == CPU.start
    found = Plan(todo, CPU, like=[done(tmp_path, 30.0, 50.0)])
    assert found.seconds[0] == pytest.approx(40.0)
    assert found.rules[0].factor == pytest.approx(40 / CPU.start)


def test_what_a_job_took_with_other_settings_is_not_believed(tmp_path: Path) -> None:
    again = dag([job("summary", benchmark=measured(tmp_path, 500.0))])
    assert Plan(again, CPU).seconds[0] == CPU.start


def test_a_job_that_was_killed_took_what_all_its_runs_took(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "manifest.json").write_text(json.dumps({"wall_seconds": 70.0}))
    last = job("summary", output=(str(artifact),), benchmark=measured(tmp_path, 9.0), needed=False)
    assert Plan(dag([last, job("summary")]), CPU).seconds[1] == pytest.approx(70.0)


def test_rules_that_were_not_measured_are_scaled_as_the_others_are(tmp_path: Path) -> None:
    jobs = [job("summary", benchmark=measured(tmp_path, 2 * CPU.start), needed=False), job("summary"), job("report")]
    found = Plan(dag(jobs), CPU)
    assert found.seconds[2] == pytest.approx(2 * CPU.start)
    assert "benchmark files of 1 rules; the model for 1 others" in "\n".join(lines(found))


def test_a_benchmark_file_of_a_job_too_short_to_be_measured_counts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "short.tsv"
    path.write_text("s\th:m:s\n-\t-\n")
    assert Plan(dag([job("summary", benchmark=path, needed=False)]), CPU).factors == {}


def test_a_job_longer_than_it_may_be_and_one_too_large_for_its_gpu_are_told() -> None:
    long = job("diagnose", wildcards={"crosscoder": "base-rl"}, limit=1)
    requeued = job("fit", wildcards={"crosscoder": "base-rl"}, limit=1, requeued=True)
    large = job("track", wildcards={"crosscoder": "base-rl"}, gpus=1)
    found = Plan(dag([long, requeued, large]), replace(machine_of("H100"), memory=1e6))
    found.seconds.update({0: 120.0, 1: 120.0})
    assert [warning.partition(":")[0] for warning in found.warnings] == ["resources.diagnose.runtime", "track"]


def test_an_adapter_takes_the_disk_of_a_whole_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.bin").touch()
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())
    adapter = {"method": "existing", "path": str(tmp_path), "checkpoints": [str(tmp_path)], "allow_pickle": True}
    settings["arms"] += [{"name": "lora", **adapter}, {"name": "whole", "method": "existing", "path": "owner/model"}]
    jobs = [job("adopt", wildcards={"model": name}) for name in ("lora", "whole")]
    jobs.append(job("perturb"))
    written = [Plan(Dag(parse_study(settings), [each]), CPU).rules[0].written for each in jobs]
    assert written == [2 * written[2], 0, written[2]]


def test_several_nodes_are_counted(tmp_path: Path) -> None:
    settings = yaml.safe_load(STUDY.read_text())
    hours, longest = [], []
    for nodes in (1, 2):
        grpo = {"threads": 32, "mem_mb": 400000, "runtime": 240, "gpus": 8, "launcher": "submitit", "nodes": nodes}
        study = tmp_path / f"{nodes}.yaml"
        study.write_text(yaml.safe_dump({**settings, "resources": {**settings["resources"], "grpo": grpo}}))
        found = rule(
            json.loads(plan("--configfile", str(study), "--directory", str(tmp_path), "--json").stdout), "grpo"
        )
        hours.append(found["gpu_hours"])
        longest.append(found["longest"])
    assert longest[1] < 0.8 * longest[0]
    assert hours[1] == pytest.approx(2 * 8 * longest[1] / 3600)


def test_a_price_a_picture_and_the_text(tmp_path: Path) -> None:
    picture = tmp_path / "dag.svg"
    result = plan("--configfile", str(STUDY), "--directory", str(tmp_path), "--price", "2.5", "--picture", str(picture))
    assert "at 2.5 a GPU-hour" in result.stdout
    assert "warning: resources.grpo.runtime" in result.stdout
    boxes = [
        text.text or "" for text in ElementTree.fromstring(picture.read_text()).iter() if text.tag.endswith("text")
    ]
    assert any(text.startswith("dump x 136") for text in boxes)


def test_fewer_gpus_at_a_time_take_longer_and_the_same_gpu_hours(tmp_path: Path) -> None:
    found = [
        json.loads(
            plan("--configfile", str(STUDY), "--directory", str(tmp_path), "--cores", "999", "--json", *more).stdout
        )
        for more in ([], ["--gpus", "8"])
    ]
    many, few = (each["total"] for each in found)
    assert few["wall_seconds"] > many["wall_seconds"]
    assert few["gpu_hours"] == many["gpu_hours"]


def test_targets_and_forced_rules_are_snakemake_s_own(tmp_path: Path) -> None:
    result = plan("--configfile", str(STUDY), "--directory", str(tmp_path), "--json", "--until", "teacher")
    assert {entry["rule"] for entry in json.loads(result.stdout)["rules"]} == {"adopt", "task", "problems", "teacher"}


def test_a_wrong_study_is_refused_as_snakemake_refuses_it(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(STUDY.read_text().replace("seed: 0", "sead: 0"))
    with pytest.raises(StudyError, match="sead: unknown key"):
        read_dag([*PROFILE, *SNAKEFILE, "--configfile", str(wrong), "--directory", str(tmp_path)])
    assert getattr(sys, "tracebacklimit", None) is None  # other errors are told in full


def test_a_model_that_is_not_known_needs_its_shape(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(STUDY.read_text().replace("path: Qwen/Qwen3-4B-Base", "path: owner/model"))
    arguments = ["--configfile", str(other), "--directory", str(tmp_path), "--json"]
    refused = plan(*arguments)
    assert isinstance(refused.exception, StudyError)
    assert "base.path: the shape of owner/model is not known here; give --model-config" in str(refused.exception)
    config = tmp_path / "config.json"
    shape = {"num_hidden_layers": 20, "hidden_size": 64, "intermediate_size": 128}
    config.write_text(json.dumps({**shape, "num_attention_heads": 4, "vocab_size": 99}))
    result = plan(*arguments, "--model-config", f"owner/model={config}")
    assert rule(json.loads(result.stdout), "dump")["written"] < 1e12
