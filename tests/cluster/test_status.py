"""What `rlgen status` tells of a study, beside what Snakemake would do and what processes did."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlgen.cluster.status import Standing, changes, status
from rlgen.cluster.table import as_text
from rlgen.owner import this_process
from rlgen.study import load_study
from tests.study.test_bad_settings import put
from tests.workflow.made_up import make_up
from tests.workflow.study_run import TINY, environment, snakemake
from tests.workflow.test_reruns import RERUNS, changed

ROOTS = Path("results/tiny")
FEW = ("pairwise crosscoder's k", "RL learning rate", "no nulls", "another seed of a crosscoder", "a resource")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up finished run of the tiny study; tests leave it as it is."""
    work = tmp_path_factory.mktemp("made-up")
    make_up(work, TINY)
    return work


@pytest.fixture
def finished_copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to be changed, as the working directory."""
    work = tmp_path / "work"
    shutil.copytree(made, work)
    monkeypatch.chdir(work)
    return work


def found(study: Path = TINY) -> dict[str, Standing]:
    """Where every artifact stands, by its path below the study's folder."""
    return {str(s.artifact.path.relative_to(ROOTS)): s for s in status(load_study(study))}


def to_make(study: Path = TINY) -> set[str]:
    return {path for path, s in found(study).items() if s.state not in ("done", "stale", "unneeded")}


def made_by_snakemake(work: Path, study: Path = TINY, *options: str) -> set[str]:
    """What a dry-run would make."""
    said = snakemake(work, study, "--dry-run", *options)
    outputs = [line.split()[-1] for line in said.splitlines() if line.strip().startswith("output:")]
    return {str(Path(path).relative_to(ROOTS)) for path in outputs}


@pytest.mark.parametrize("what", [*FEW, *(pytest.param(w, marks=pytest.mark.slow) for w in RERUNS if w not in FEW)])
def test_a_changed_setting_outdates_what_snakemake_would_rerun(
    what: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    key, value, _ = RERUNS[what]
    study = changed(tmp_path, put(key, value))
    assert to_make(study) == made_by_snakemake(made, study)


def test_other_settings_are_named(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    now = found(changed(tmp_path, put("crosscoders.base-sft.k", 4)))
    assert now["crosscoders/base-sft"].note == "other settings: crosscoder.k 8 -> 4"
    assert "made from results/tiny/summary.json" in now["report"].note
    assert now["crosscoders/base-rl"].state == "done"


def test_settings_that_differ_by_a_default() -> None:
    assert changes({"a": {"b": 1}, "c": [1]}, {"a": {"b": 1, "d": True}, "c": [2]}) == [
        "a.d default -> true",
        "c [1] -> [2]",
    ]


def test_what_is_gone_and_not_asked_for_is_not_to_be_made(finished_copy: Path) -> None:
    shutil.rmtree(ROOTS / "activations/sft")
    states = Counter(standing.state for standing in found().values())
    assert states["unneeded"] == 2
    assert to_make() == made_by_snakemake(finished_copy) == set()
    shutil.rmtree(ROOTS / "crosscoders/base-sft-rl")
    shutil.rmtree(ROOTS / "report")
    assert to_make() == made_by_snakemake(finished_copy) == {"report"}


def test_what_is_gone_is_made_for_what_needs_it(finished_copy: Path) -> None:
    shutil.rmtree(ROOTS / "activations/sft")
    study = finished_copy / "changed.yaml"
    settings = yaml.safe_load(TINY.read_text())
    settings["crosscoders"]["base-sft"]["k"] = 4
    study.write_text(yaml.safe_dump(settings))
    assert to_make(study) == made_by_snakemake(finished_copy, study)
    assert "crosscoders/base-sft-rl" in to_make(study), "its store is new"


def test_an_input_that_is_newer(finished_copy: Path) -> None:
    (ROOTS / "data/tasks/min/.snakemake_timestamp").touch()
    assert found()["evaluation/sft"].note == "older than results/tiny/data/tasks/min"
    assert to_make() == made_by_snakemake(finished_copy)


def test_before_anything_is_there_all_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {standing.state for standing in found().values()} == {"missing"}
    assert to_make() == made_by_snakemake(tmp_path)


HOLDER = """
import sys, time
from pathlib import Path
from rlgen.stage import stage
from rlgen.study.stages import PerturbSettings
with stage("perturb", PerturbSettings(), {}, Path(sys.argv[1])) as work:
    progress = work.progress(8, "shards")
    progress._every = 0.0
    progress.to(2)
    print("at work", flush=True)
    time.sleep(60)
"""


def test_a_process_at_work_and_one_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = ROOTS / "models/base+noise"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, out], stdout=subprocess.PIPE, env=environment())
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"at work\n"
    running = found()["models/base+noise"]
    holder.kill()
    holder.wait(timeout=10)
    killed = found()["models/base+noise"]
    assert running.state == "running"
    assert running.note.startswith(f"process {holder.pid}, 2/8 shards (25%)")
    assert (killed.state, killed.note.split(",")[0]) == ("interrupted", "2/8 shards (25%)")


@pytest.mark.parametrize(("queue", "state"), [("76\n77\n", "running"), ("76\n", "interrupted")])
def test_a_slurm_job_on_another_machine(
    finished_copy: Path, monkeypatch: pytest.MonkeyPatch, queue: str, state: str
) -> None:
    """`squeue` is a stand-in that knows the numbers of jobs."""
    squeue = finished_copy / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\nprintf '{queue}'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    shutil.rmtree(ROOTS / "report")
    partial = ROOTS / "report.partial"
    partial.mkdir()
    owner = {**this_process(), "host": "node7", "job": "77"}
    (partial / ".stage.json").write_text(json.dumps({"fingerprint": "", "elapsed": 60.0, "owner": owner}))
    standing = found()["report"]
    assert standing.state == state
    assert "60 s of work" in standing.note
    assert ("SLURM job 77" in standing.note) == (state == "running")


def test_a_failed_job_shows_the_end_of_its_log_without_secrets(
    finished_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TOKEN", "not-for-the-log")
    shutil.rmtree(ROOTS / "report")
    log = ROOTS / "logs/report.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("12:00:00 report: starting\nerror: no access with not-for-the-log\n  remedy: ask\n")
    failed = found()["report"]
    assert failed.state == "failed"
    assert failed.lines == ("error: no access with <HUB_TOKEN>", "  remedy: ask")
    log.write_text("12:00:00 report: starting\nTraceback (most recent call last):\n  File\nValueError: one\n")
    assert found()["report"].lines[-1] == "ValueError: one"
    log.write_text("12:00:00 report: starting\n")
    assert found()["report"].state == "missing", "it was killed, or has just begun"


def test_a_log_of_what_was_made_since_is_no_failure(finished_copy: Path, tmp_path: Path) -> None:
    log = ROOTS / "logs/report.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("error: long ago\n")
    os.utime(log, (1, 1))
    assert found(changed(tmp_path, put("report.title", "Another")))["report"].state == "outdated"


def said(artifact: Path, **changes: Any) -> None:
    """Change what an artifact's manifest says."""
    manifest: dict[str, Any] = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rlgen", "status", "--configfile", str(TINY), *words],
        capture_output=True, text=True, timeout=60, check=True, env=environment(),
    )  # fmt: skip
    return done.stdout


def test_what_other_code_made_is_told_and_rerun_only_if_asked(finished_copy: Path) -> None:
    said(ROOTS / "features/base-sft/attribution", code="other")
    assert found()["features/base-sft/attribution"].state == "stale"
    assert to_make() == made_by_snakemake(finished_copy) == set()
    printed = command("--stale").split()
    assert printed == ["results/tiny/features/base-sft/attribution"]
    forced = made_by_snakemake(finished_copy, TINY, "--forcerun", *printed)
    assert forced == {"features/base-sft/attribution", "summary.json", "report"}


def test_what_an_earlier_release_made_is_not_called_stale(finished_copy: Path) -> None:
    said(ROOTS / "models/sft", code=None)
    standing = found()["models/sft"]
    assert (standing.state, standing.unknown) == ("done", True)
    assert "1 of those done do not say by what code they were made" in list(as_text([standing]))[-1]


def test_what_must_not_be_mixed_with_what_is_made_here_is_stale(finished_copy: Path) -> None:
    said(ROOTS / "models/sft", format=7)
    said(ROOTS / "activations/rl/part-000.zarr", versions={"transformers": "3.1.0"})
    now = found()
    assert (now["models/sft"].state, now["models/sft"].note) == ("stale", "of format 7, which is 1 here")
    assert now["activations/rl/part-000.zarr"].note.startswith("made by transformers 3.1.0")
    assert now["activations/rl/part-001.zarr"].state == "done"


def test_the_command_prints_a_table_and_json(finished_copy: Path) -> None:
    shutil.rmtree(ROOTS / "report")
    text = command().splitlines()
    assert text[0].split() == ["rule", "done", "missing"]
    assert ["dump", "12"] in [line.split() for line in text]
    told = json.loads(command("--json"))
    assert told["counts"]["done"] == len(told["artifacts"]) - 1
    assert told["counts"]["missing"] == 1
    renamed = json.loads(command("--json", "--config", "study=other"))
    assert renamed["counts"]["missing"] == len(renamed["artifacts"])


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from rlgen.cluster.status import status; from rlgen.study import load_study;"
        f"status(load_study(Path({str(TINY)!r})));"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pandas', 'numpy', 'snakemake')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False, env=environment()).returncode == 0
