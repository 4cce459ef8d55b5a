"""The README's way to the first job on a cluster, line for line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.workflow.study_run import ROOT, environment

pytestmark = pytest.mark.slow

NOT_HERE = ("cd rlgen", "$EDITOR")
"""What takes minutes and a network, or a person."""
WHOLE = "snakemake --profile profiles/slurm"
"""All the rest, which tests/slurm/test_profile.py runs."""


def commands() -> list[str]:
    """The lines of the section's first block, without comments."""
    section = (ROOT / "README.md").read_text().partition("\n## On your cluster\n")[2]
    block = section.lstrip("\n").partition("\n\n")[0]
    lines = [line.strip().partition("   #")[0].partition("  #")[0].rstrip() for line in block.splitlines()]
    return [line for line in lines if not line.startswith(NOT_HERE)]


def test_every_line_works(cluster: Cluster, tmp_path: Path) -> None:
    clone = tmp_path / "rlgen"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    (clone / ".venv").mkdir()
    (clone / ".venv/bin").symlink_to(Path(sys.executable).parent)
    *steps, last = commands()
    assert last == WHOLE
    script = "\n".join(["set -eux", *steps])
    environ = {**environment(), "PYTHONPATH": str(clone)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=clone, env=environ, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / "results/mini/data/problems/manifest.json").is_file()
    assert "problems: done" in done.stdout
    assert list((clone / "logs/slurm").rglob("*.log"))
