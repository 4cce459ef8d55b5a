"""Finished studies made up: of every artifact there is a manifest, and Snakemake has noted that it was made."""

import json
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

from rlgen.cluster.artifacts import Artifact, artifacts
from rlgen.source import code_digest
from rlgen.study import load_study
from tests.workflow.study_run import command, environment

_TOUCH = """
import sys
from snakemake.executors.touch import Executor
Executor.SLEEPING_TIME = 0  # else a tenth of a second a job
from snakemake.cli import main
main(sys.argv[1:])
"""


def make_up(work: Path, study: Path) -> list[Path]:
    """Make up a finished run of a study in `work`; returns its artifacts."""
    with chdir(work):  # a reward's file is an input if it lies under the working directory
        found = artifacts(load_study(study))
    for artifact in found:
        path, manifest = work / artifact.path, made_up_manifest(artifact)
        if path.suffix == ".json":
            path.write_text(json.dumps({"manifest": manifest}))
        else:
            path.mkdir(parents=True)
            (path / "manifest.json").write_text(json.dumps(manifest))
    touched = [sys.executable, "-c", _TOUCH, *command(work, study)[3:], "--touch", "--forceall", "--quiet", "all"]
    subprocess.run(touched, check=True, capture_output=True, timeout=600, env=environment())
    return [work / artifact.path for artifact in found]


def made_up_manifest(artifact: Artifact) -> dict[str, object]:
    """What an artifact's manifest says if this code made it of the study's settings."""
    return {
        "stage": artifact.rule,
        "settings": json.loads(artifact.settings.canonical()),
        "inputs": {path: {"path": path, "digest": "made up"} for path in artifact.inputs},
        "code": code_digest(artifact.rule),
        "digest": "made up",
    }
