"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.workflow.study_run import TINY, snakemake

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads that wait for each other cost more than they give
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels without a GPU; read when they are first imported

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder of real benchmark data that is not part of the repository; skips where it is absent."""
    folder = Path(os.environ.get("RLGEN_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set RLGEN_REAL_DATA")
    return folder.resolve()


@pytest.fixture(scope="session")
def real_model(real_data: Path) -> Path:
    """A small real pretrained model beside the real data; skips where it is absent."""
    folder = real_data.parent / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"no real model at {folder}")
    return folder


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
