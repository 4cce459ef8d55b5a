"""The list of a study's artifacts is the DAG that Snakemake builds."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from rlgen.cluster.artifacts import artifacts
from rlgen.study import load_study
from tests.workflow.study_run import ROOT, TINY, snakemake, tiny_settings

STUDIES = {path.stem: path for path in (ROOT / "workflow/studies").rglob("*.yaml")}
SLOW = {"large": ROOT / "tests/studies/large.yaml"}

Job = tuple[str, str, frozenset[str], str]
"""Rule, output, inputs, log."""


def seen_by_snakemake(work: Path, study: Path) -> tuple[set[Job], dict[str, str]]:
    """Every job of a dry-run, and by output the settings that its command is given."""
    said = snakemake(work, study, "--dry-run", "--forceall", "--printshellcmds")
    jobs, settings = set(), {}
    for block in re.split(r"^\[.*\]$", said, flags=re.MULTILINE):
        found = dict(re.findall(r"^ *(rule|input|output|log|Shell command)(?:: | )(.*?):?$", block, re.MULTILINE))
        if "output" in found:
            inputs = frozenset(found["input"].split(", ")) if "input" in found else frozenset[str]()
            jobs.add((found["rule"], found["output"], inputs, found["log"]))
            words = shlex.split(found["Shell command"])
            settings[found["output"]] = words[words.index("--settings") + 1]
    return jobs, settings


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A reward's file is an input if it lies under it."""
    monkeypatch.chdir(tmp_path)


def held_side_by_side(work: Path, file: Path) -> None:
    jobs, settings = seen_by_snakemake(work, file)
    found = artifacts(load_study(file))
    assert {(a.rule, str(a.path), frozenset(a.inputs), str(a.log)) for a in found} == jobs
    assert {str(a.path): a.settings.canonical() for a in found} == settings
    made: set[str] = set()
    outputs = {str(a.path) for a in found}
    for artifact in found:
        assert made >= outputs & set(artifact.inputs), "each comes after those that it is made from"
        made.add(str(artifact.path))


@pytest.mark.parametrize("name", ["replication", "ablation", "qwen3-0.6b"])
def test_it_is_what_snakemake_builds(name: str, tmp_path: Path) -> None:
    held_side_by_side(tmp_path, STUDIES[name])


@pytest.mark.slow
@pytest.mark.parametrize("file", [*STUDIES.values(), *SLOW.values(), TINY, ROOT / "config.yaml"], ids=lambda f: f.stem)
def test_it_is_so_for_every_study(file: Path, tmp_path: Path) -> None:
    held_side_by_side(tmp_path, file)


def test_with_existing_models_and_files_of_the_user_s(tmp_path: Path) -> None:
    Path("rows.jsonl").write_text('{"id": "1", "problem": "1 + 1?", "answer": "2", "text": "two"}\n')
    settings = tiny_settings()
    settings["arms"][0] = {"name": "sft", "method": "existing", "path": "owner/other", "checkpoints": ["owner/early"]}
    settings["problems"] = {"sources": [{"source": "jsonl", "path": "rows.jsonl", "solution": None}]}
    settings["problems"]["max_solution_tokens"] = 30
    settings["teacher"] = {"path": "owner/teacher"}
    settings["corpus"]["sources"] = [{"source": "jsonl", "path": "rows.jsonl"}]
    del settings["tracking"], settings["nulls"]
    Path("study.yaml").write_text(yaml.safe_dump(settings))
    held_side_by_side(tmp_path, tmp_path / "study.yaml")
