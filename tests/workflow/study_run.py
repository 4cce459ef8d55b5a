"""Running a study by Snakemake, as a user does, in a working directory of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/studies/tiny.yaml"


def snakemake(work: Path, study: Path | None, *options: str, timeout: float = 900, profile: str = "local") -> str:
    """Run Snakemake on a study; returns what it printed. Fails the test if it fails."""
    done = subprocess.run(
        [*command(work, study, profile), *options],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def command(work: Path, study: Path | None, profile: str = "local") -> list[str]:
    """The command line of a run in `work`; without a study, of the one in the working directory's config.yaml."""
    places = ["--snakefile", str(ROOT / "workflow/Snakefile"), "--profile", str(ROOT / "profiles" / profile)]
    chosen = ["--configfile", str(study)] if study else []
    return [sys.executable, "-m", "snakemake", *places, "--directory", str(work), *chosen]


def environment() -> dict[str, str]:
    """The environment with the interpreter's own `rlgen` first on the path."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def jobs(work: Path, study: Path, *options: str) -> dict[str, int]:
    """Number of jobs by rule that a dry-run would run, the target rule left out."""
    said = snakemake(work, study, "--dry-run", *options)
    found = re.search(r"Job stats:\n[^\n]*\n-[- ]*\n(.*?)^total", said, re.DOTALL | re.MULTILINE)
    rows = (line.split() for line in found.group(1).splitlines()) if found else []
    return {rule: int(count) for rule, count in rows if rule != "all"}


def contents(artifact: Path, name: str) -> dict[str, bytes]:
    """An artifact's files, without the manifest and its wall time, and without the `name` it was made under."""
    files = [p for p in artifact.rglob("*") if p.is_file()]
    left_out = ("manifest.json", ".snakemake_timestamp")
    kept = [p for p in files if p.name not in left_out]
    return {str(p.relative_to(artifact)): p.read_bytes().replace(name.encode(), b"") for p in kept}


def tiny_settings() -> dict[str, Any]:
    """The tiny study's settings, to be changed."""
    settings: dict[str, Any] = yaml.safe_load(TINY.read_text())
    return settings
