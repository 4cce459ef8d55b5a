"""`rlgen config check`, and what Snakemake, `rlgen plan` and `rlgen status` make of the same file."""

import copy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import yaml

from rlgen.study import notes_on, parse_study
from rlgen.study.checks.notes import FEWEST_DRAWS
from tests.study.settings import GOOD, ROOT, put, put_all

TEXT = (ROOT / "config.yaml").read_text()
SNAKEMAKE = ["snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--dry-run", "--cores", "1"]


def run(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python in a working directory."""
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=work, capture_output=True, text=True, timeout=120, check=False
    )


def notes(changes: dict[str, Any]) -> list[str]:
    settings = copy.deepcopy(GOOD)
    put_all(changes)(settings)
    return notes_on(parse_study(settings))


def test_the_default_study_has_no_notes() -> None:
    assert notes({}) == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"interventions.draws": 18}, "interventions.draws"),
        ({"localisation.permutations": 10}, "localisation.permutations"),
        ({"evaluation.temperature": 0}, "evaluation.samples"),
        ({"arms.1.checkpoints": 1}, "tracking.crosscoders[1]"),
    ],
)
def test_settings_that_are_allowed_and_weak_are_told(changes: dict[str, Any], key: str) -> None:
    found = notes(changes)
    assert [note.partition(":")[0] for note in found] == [key]


def test_fewer_draws_than_a_verdict_needs_are_told() -> None:
    assert 1 / (1 + FEWEST_DRAWS) <= 0.05 < 1 / FEWEST_DRAWS
    assert notes({"interventions.draws": FEWEST_DRAWS}) == []
    assert "0.17" in notes({"interventions.draws": 5})[0]


def test_check_says_what_it_has_looked_at_and_what_is_weak(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(TEXT.replace("  draws: 20 ", "  draws: 5 "))
    done = run(ROOT, "rlgen", "config", "check", str(study))
    assert done.returncode == 0
    assert "the settings of study `mini` are right: 2 arms, 3 crosscoders" in done.stdout
    assert "checked when they are read" in done.stdout
    assert "note: interventions.draws: " in done.stdout


def test_checking_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from rlgen.study import load_study, notes_on;"
        "notes_on(load_study(pathlib.Path('config.yaml')));"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pandas', 'numpy', 'snakemake')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("command", ["check", "snakemake", "snakemake in the folder", "status"])
def test_a_key_given_twice_is_refused_by_all_commands(tmp_path: Path, command: str) -> None:
    number = len(TEXT.splitlines()) + 1
    (tmp_path / "config.yaml").write_text(TEXT + "seed: 3\n")
    done = {
        "check": lambda: run(tmp_path, "rlgen", "config", "check", "config.yaml"),
        "status": lambda: run(tmp_path, "rlgen", "status"),
        "snakemake": lambda: run(tmp_path, *SNAKEMAKE, "--configfile", "config.yaml"),
        "snakemake in the folder": lambda: run(tmp_path, *SNAKEMAKE),
    }[command]()
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"seed: given twice, in lines 8 and {number}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("content", [b"study: caf\xe9\n", b"a: &x [*x]\n"])
def test_a_file_that_is_no_yaml_is_refused_in_the_working_directory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    done = run(tmp_path, *SNAKEMAKE)
    assert done.returncode != 0
    assert "\nconfig.yaml: " in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_plan_reads_a_study_s_file_before_snakemake_does(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    doubled = "".join(f"{b}: &{b} {{x: *{a}, y: *{a}}}\n" for a, b in pairwise(ascii_lowercase))
    study.write_text("a: &a {x: 1}\n" + doubled)
    done = run(ROOT, "rlgen", "plan", "--configfile", str(study))
    assert done.returncode == 2
    assert "more than 100,000 values" in done.stderr


def test_settings_of_the_command_line_mean_the_same_to_status_and_snakemake(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(TEXT)
    wanted = {"corpus={tokens: 5}": "tracking.tokens: 65536 exceeds corpus.tokens (5)", "seed=x": "seed: given"}
    for setting, wrong in wanted.items():
        for command in (["rlgen", "status"], SNAKEMAKE):
            done = run(tmp_path, *command, "--config", setting)
            assert done.returncode != 0
            assert wrong in done.stdout + done.stderr
    done = run(tmp_path, "rlgen", "status", "--config", "corpus={tokens: 131072}", "--config", "seed=3")
    assert done.returncode == 0, done.stderr
    for setting in ("=3", "seed", "3=4", ""):
        done = run(tmp_path, "rlgen", "status", "--config", setting)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_a_workflow_that_uses_this_one_as_a_module_gives_it_its_settings(tmp_path: Path) -> None:
    """Its own file of settings may hold what a study's may not."""
    settings = {**GOOD, "study": "inner"}
    put("arms.1.checkpoints", 3)(settings)
    (tmp_path / "outer.yaml").write_text("when: 2024-01-01\n" + yaml.safe_dump({"study": settings}))
    (tmp_path / "Snakefile").write_text(
        f'module inner:\n    snakefile: "{ROOT / "workflow/Snakefile"}"\n    config: config["study"]\n'
        "use rule problems from inner\n"
    )
    words = ["snakemake", "results/inner/data/problems", "--dry-run", "--cores", "1", "--configfile", "outer.yaml"]
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
