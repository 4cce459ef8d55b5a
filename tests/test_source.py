"""A stage's own source: what it reaches counts, and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlgen
from rlgen.source import code_digest, definitions
from rlgen.study.checks.running import RULES
from tests.workflow.study_run import environment

PACKAGE = Path(rlgen.__file__).parent


def digests(package: Path) -> dict[str, str]:
    """Every stage's digest, as a copy of the package tells it."""
    code = f"from rlgen.source import code_digest\nfor stage in {RULES!r}: print(stage, code_digest(stage))"
    env = {**environment(), "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=package.parent,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be changed."""
    copy = tmp_path / "rlgen"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def changed_by(package: Path, file: str, before: str, after: str) -> set[str]:
    """The stages whose digest an edit of a file changes."""
    path, old = package / file, digests(package)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    new = digests(package)
    return {stage for stage in old if old[stage] != new[stage]}


@pytest.mark.parametrize(
    ("file", "before", "after", "stages"),
    [
        ("posttrain/perturb.py", "def perturb(", "# a comment\n\n\ndef perturb(", set()),
        ("posttrain/perturb.py", '"""', '"""Once upon a time. ', set()),
        ("stage.py", "= 0.5, 30.0", "= 0.6, 30.0", set()),
        ("study/variants.py", "found = {}", "found: dict = {}", set()),
        ("features/refit.py", "HALVES = ", "HALVES = 0 + ", {"track"}),
        ("report/templates/page.html.j2", "<", "\n<", {"report"}),
        ("data/benchmarks/piqa.yaml", "piqa", "other", {"task"}),
        ("features/attribution.py", "def mas(", "def mas(*, _: int = 0, ", {"attribute"}),
    ],
)
def test_an_edit_changes_the_digest_of_the_stages_that_reach_it(
    package: Path, file: str, before: str, after: str, stages: set[str]
) -> None:
    assert changed_by(package, file, before, after) == stages


def test_every_stage_has_a_source_of_its_own() -> None:
    found = {stage: code_digest(stage) for stage in RULES}
    assert None not in found.values()
    assert len(set(found.values())) == len(RULES)
    assert code_digest("no such stage") is None


def test_what_is_imported_in_a_function_is_reached() -> None:
    reached = {(str(path.relative_to(PACKAGE)), name) for path, name in definitions("fit")}
    assert {("crosscoder/train.py", "fit"), ("activations/live.py", "LivePart"), ("models.py", "load_model")} <= reached
    assert not any(path.startswith(("study", "stage")) for path, _ in reached)
