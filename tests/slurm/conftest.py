"""The cluster that the tests share: brought up by the first, taken down after the last, used by one test at a time."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def users(shared: Path) -> Iterator[Path]:
    """A file for each worker that may still use the cluster; the last to leave takes it down."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    users = shared / "slurm-users"
    users.mkdir(exist_ok=True)
    mine = users / str(os.getpid())
    mine.touch()
    yield users
    with FileLock(f"{users}.lock"):
        mine.unlink()
        if not any(users.iterdir()):
            Cluster(shared / "slurm").down()


@pytest.fixture
def cluster(shared: Path, users: Path) -> Iterator[Cluster]:
    """A cluster with both nodes up and no jobs, for this test alone: some tests break it."""
    with FileLock(f"{users}.lock"):
        cluster = Cluster(shared / "slurm")
        cluster.up()
        yield cluster
        cluster.cancel_all()
