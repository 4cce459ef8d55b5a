"""Finished studies made up: every output is there, empty, and Snakemake has noted how it was made."""

import re
import subprocess
import sys
from pathlib import Path

from tests.workflow.study_run import command, environment, snakemake

_TOUCH = """
import sys
from snakemake.executors.touch import Executor
Executor.SLEEPING_TIME = 0  # else a tenth of a second a job
from snakemake.cli import main
main(sys.argv[1:])
"""


def make_up(work: Path, study: Path) -> list[Path]:
    """Make up a finished run of a study in `work`; returns its artifacts, as paths under `work`."""
    said = snakemake(work, study, "--dry-run")
    outputs = [work / line.split()[-1] for line in said.splitlines() if re.match(r" +output: ", line)]
    for path in outputs:
        if path.suffix == ".json":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True)
    touched = [sys.executable, "-c", _TOUCH, *command(work, study)[3:], "--touch", "--forceall", "--quiet", "all"]
    subprocess.run(touched, check=True, capture_output=True, timeout=600, env=environment())
    return outputs
