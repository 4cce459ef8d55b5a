"""`rlgen store info` and `rlgen store verify`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlgen.activations.inspect import info, verify
from rlgen.activations.layout import ACTIVATIONS, shard_file
from rlgen.activations.store import StoreReader
from rlgen.errors import StudyError
from tests.activations.synthetic import write_store

RANDOM = np.random.default_rng(0)


def two_parts(folder: Path, codec: str = "none") -> Path:
    for part in range(2):
        acts = RANDOM.standard_normal((600, 2, 5)).astype(np.float32)
        write_store(folder / f"part-{part:03d}.zarr", "base", acts, part=part, parts=2, codec=codec)
    return folder


@pytest.fixture(scope="module", params=["none", "lz4", "zstd"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_parts(tmp_path_factory.mktemp("store"), request.param)


def test_a_whole_store_has_no_faults(store: Path) -> None:
    assert list(verify(store)) == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found_and_located(store: Path, data: st.DataObject) -> None:
    """Where in the file does not matter: chunk, its checksum, or the shard's index."""
    shard = data.draw(st.integers(0, 2))
    file = shard_file(store / "part-001.zarr", ACTIVATIONS, shard)
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) * 8 - 1))
    broken = bytearray(whole)
    broken[place // 8] ^= 1 << place % 8
    file.write_bytes(broken)
    try:
        faults = list(verify(store))
        with pytest.raises(StudyError, match="damaged"):
            [StoreReader([store / f"part-{i:03d}.zarr" for i in range(2)]).read(600, 1200, layer) for layer in (1, 2)]
    finally:
        file.write_bytes(whole)
    start, stop = shard * 256, min(shard * 256 + 256, 600) - 1
    assert faults
    assert all(f"part 1, array `activations`, shard {shard}, tokens " in fault for fault in faults)
    low, high = faults[0].split("tokens ")[1].split(" after")[0].split(":")[0].split(" to ")
    assert start <= int(low) <= int(high) <= stop


def test_a_flipped_bit_is_narrowed_to_its_chunk(tmp_path: Path) -> None:
    store = two_parts(tmp_path)
    file = shard_file(store / "part-000.zarr", "norm", 0)
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    (fault,) = verify(store)
    assert "part 0, array `norm`, shard 0, tokens 0 to 63 after layer 1: a checksum is wrong" in fault


@pytest.mark.parametrize("what", ["cut", "gone", "swapped"])
def test_a_shard_that_is_not_the_one_written_is_found(tmp_path: Path, what: str) -> None:
    store = two_parts(tmp_path)
    file = shard_file(store / "part-000.zarr", ACTIVATIONS, 1)
    if what == "cut":
        file.write_bytes(file.read_bytes()[:3000])
    elif what == "gone":
        file.unlink()
    else:
        file.write_bytes(shard_file(store / "part-001.zarr", ACTIVATIONS, 1).read_bytes())
    faults = list(verify(store))
    assert faults
    assert all("part 0, array `activations`, shard 1, tokens " in fault for fault in faults)


def test_info_says_what_is_there(store: Path) -> None:
    said = info(store)
    assert "1,200 tokens x 2 layers x 5" in said
    assert "2 of 2" in said
    assert "base" in said
    with pytest.raises(StudyError, match="no activation store there"):
        info(store / "nothing")


def test_the_command_fails_when_there_are_faults(tmp_path: Path) -> None:
    store = two_parts(tmp_path)
    shard_file(store / "part-000.zarr", "tokens", 0).unlink()
    command = [sys.executable, "-c", "from rlgen.cli import main; main()", "store", "verify", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "array `tokens`" in done.stdout
    assert "2 parts read, 1 faults" in done.stdout
