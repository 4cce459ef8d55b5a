"""Copies of shards on a local disk: the same batches, bounded room, nothing left behind, one read from afar."""

import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import rlgen
from rlgen.activations import copies as copies_module
from rlgen.activations.copies import Copies, local_copies
from rlgen.activations.joined import join
from rlgen.activations.loader import Loader
from rlgen.crosscoder import train
from rlgen.errors import StudyError
from rlgen.study.sections import Crosscoder
from rlgen.study.stages import FitSettings
from tests.activations.slow_mount import missing, mounted
from tests.activations.synthetic import numbered, write_store
from tests.workflow.study_run import environment

SHARD_BYTES = 256 * 64 * 4
SHARDS = 8


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    """Two models' stores, of `SHARDS` shards each."""
    acts = numbered(SHARDS * 256, 2, d=64)
    names = zip(("base", "rl"), acts, strict=True)
    return [write_store(tmp_path / "afar" / name / "part-000.zarr", name, acts_NLD) for name, acts_NLD in names]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local disk that is asked for."""
    folder = tmp_path / "local"
    folder.mkdir()
    monkeypatch.setenv("LOCAL_DISK", str(folder))
    monkeypatch.setenv("RLGEN_SCRATCH", "$LOCAL_DISK")
    return folder


def batches(stores: list[Path], copies: Copies | None) -> torch.Tensor:
    """All batches of three epochs, with small windows."""
    loader = Loader(join([[path] for path in stores], copies), 1, 100, seed=0, epochs=3, buffer_bytes=1 << 17)
    return torch.cat(list(loader))


def copied(disk: Path) -> list[Path]:
    return sorted(disk.glob("rlgen-*/*.copy"))


def test_batches_are_the_same_and_nothing_is_left(stores: list[Path], disk: Path) -> None:
    with local_copies() as copies:
        assert copies is not None
        found = batches(stores, copies)
        assert len(copied(disk)) == 2 * SHARDS
    assert torch.equal(found, batches(stores, None))
    assert list(disk.iterdir()) == []


def test_without_being_asked_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLGEN_SCRATCH", raising=False)
    with local_copies() as copies:
        assert copies is None


def test_an_error_leaves_nothing(stores: list[Path], disk: Path) -> None:
    def interrupted() -> None:
        with local_copies() as copies:
            batches(stores, copies)
            assert copied(disk)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(disk.iterdir()) == []


def test_room_is_bounded(stores: list[Path], disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = int(4.5 * SHARD_BYTES)
    monkeypatch.setenv("RLGEN_SCRATCH_GB", str(limit / 1e9))
    with local_copies() as copies:
        found = batches(stores, copies)
        assert 3 <= len(copied(disk)) <= 4
        assert sum(path.stat().st_size for path in disk.rglob("*") if path.is_file()) <= limit
    assert torch.equal(found, batches(stores, None))


def test_a_full_disk_is_no_failure(stores: list[Path], disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copies_module, "_copy", full)
    with local_copies() as copies:
        found = batches(stores, copies)
        assert copied(disk) == []
    assert torch.equal(found, batches(stores, None))


def test_who_comes_at_the_same_time_copies_once(
    stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, copy = [], copies_module._copy

    def counted(source: Path, target: Path) -> None:
        made.append(source)
        copy(source, target)

    monkeypatch.setattr(copies_module, "_copy", counted)
    shard = next(path for path in stores[0].rglob("c/0/*/*") if path.is_file())
    folders = [Copies(tmp_path, 1 << 30) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        places = set(pool.map(lambda copies: copies.place(shard), folders))
    assert len(made) == len(places) == 1
    assert places.pop().read_bytes() == shard.read_bytes()


KILLED = """
import sys, time
from pathlib import Path
from rlgen.activations.copies import local_copies
with local_copies() as copies:
    print(copies.place(Path(sys.argv[1])), flush=True)
    time.sleep(60)
"""


def test_what_a_killed_job_left_is_removed_by_the_next(stores: list[Path], disk: Path) -> None:
    shard = next(path for path in stores[0].rglob("c/0/*/*") if path.is_file())
    other = subprocess.Popen(
        [sys.executable, "-c", KILLED, shard], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert other.stdout is not None
    left = Path(other.stdout.readline().strip())
    assert left.is_file()
    with local_copies():
        assert left.is_file(), "its job lives"
    other.send_signal(signal.SIGKILL)
    other.wait(timeout=10)
    with local_copies():
        assert not left.parent.exists()
    assert list(disk.iterdir()) == []


def test_processes_of_one_job_share_copies_and_the_last_removes_them(stores: list[Path], disk: Path) -> None:
    """Ranks have one parent, here this process."""
    shard = next(path for path in stores[0].rglob("c/0/*/*") if path.is_file())
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED.replace("time.sleep(60)", "sys.stdin.read()"), shard],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**environment(), "WORLD_SIZE": "2"},
        )
        for _ in range(2)
    ]  # fmt: skip
    places = set()
    for rank in ranks:
        assert rank.stdout is not None
        places.add(Path(rank.stdout.readline().strip()))
    (place,) = places
    assert place.suffix == ".copy"
    for rank, left in zip(ranks, (True, False), strict=True):
        rank.communicate(timeout=30)
        assert rank.returncode == 0
        assert place.exists() == left


def test_only_a_local_disk_is_asked_for_locks() -> None:
    """Lustre has none without `-o flock`."""
    package = Path(rlgen.__file__).parent
    found = {path.name for path in package.rglob("*.py") if re.search(r"fcntl|lockf|FileLock", path.read_text())}
    assert found == {"copies.py"}


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [("RLGEN_SCRATCH", "/no/such/disk", "cannot be written"), ("RLGEN_SCRATCH_GB", "much", "not a number")],
)
def test_what_cannot_be_used_is_refused(
    disk: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StudyError, match=f"{variable}.*{told}"), local_copies():
        pass


def test_a_fit_from_copies_is_the_same(
    stores: list[Path], disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Crosscoder(models=["base", "rl"], features=16, k=2, batch_size=128, lr=1e-3, epochs=2)
    settings = FitSettings(crosscoder=chosen, layer=1, outlier_norm=1e9)
    train.fit(settings, stores=stores, out=tmp_path / "copied")
    assert list(disk.iterdir()) == []
    monkeypatch.delenv("RLGEN_SCRATCH")
    train.fit(settings, stores=stores, out=tmp_path / "afar-read")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("copied", "afar-read"))
    assert one == two


@pytest.mark.skipif(bool(missing()), reason=f"no slow file system can be mounted: {missing()}")
def test_each_byte_is_read_from_afar_but_once(stores: list[Path], disk: Path, tmp_path: Path) -> None:
    """A store on a file system that caches nothing, three epochs of it: with copies one is read, without them three."""
    whole = sum(path.stat().st_size for store in stores for path in store.rglob("activations/c/*/*/*"))
    read = {}
    for name in ("copied", "plain"):
        with mounted(tmp_path / "afar", tmp_path / name) as log, local_copies() as copies:
            there = [tmp_path / name / store.relative_to(tmp_path / "afar") for store in stores]
            found = batches(there, copies if name == "copied" else None)
            read[name] = int(log.read_text())
        assert torch.equal(found, batches(stores, None))
    assert whole <= read["copied"] < 1.5 * whole, "small arrays are read as well"
    assert read["plain"] > 2.9 * whole
