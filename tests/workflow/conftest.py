"""One finished run of the tiny study, shared by all tests that need one."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.workflow.study_run import TINY, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a finished tiny study. Tests read it and dry-run in it, and leave it as it is."""
    base = tmp_path_factory.getbasetemp()
    work = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished-tiny"  # one for all workers
    with FileLock(f"{work}.lock", timeout=900):
        if not (work / "done").exists():
            work.mkdir(exist_ok=True)
            snakemake(work, TINY)
            (work / "done").touch()
    return work
