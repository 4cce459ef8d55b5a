"""Dumping through kills, full disks and folders that cannot be written."""

import contextlib
import multiprocessing
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

import rlgen.activations.dump as dumping
from rlgen.activations.inspect import verify
from rlgen.activations.layout import ACTIVATIONS
from rlgen.data.miniature import build_tokenizer
from rlgen.errors import StudyError
from rlgen.stage import content_digest
from rlgen.study.sections import Activations
from rlgen.study.stages import DumpSettings
from tests.data.corpora import write_corpus

KILLS = 20
SHARDS = 24


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64, hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, head_dim=16,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    build_tokenizer().save_pretrained(folder / "base")
    tokens = np.random.default_rng(0).integers(3, 40, (SHARDS * 8, 128)).astype(np.int32)
    write_corpus(folder / "corpus", tokens, np.zeros_like(tokens), np.ones(tokens.shape, dtype=bool))
    return {"model": folder / "base", "corpus": folder / "corpus"}


def settings(codec: str = "none") -> DumpSettings:
    chosen = Activations(layers=[1, 2], batch_rows=4, chunk_tokens=256, shard_tokens=1024, codec=codec)
    return DumpSettings(activations=chosen, part=0)


def dump_and_count(given: dict[str, Path], out: Path, computed: Path) -> None:
    """Dump in a process of its own; a byte is added to `computed` for each shard that has been computed."""
    torch.set_num_threads(1)
    compute = dumping.compute

    def counted(*arguments: object) -> object:
        found = compute(*arguments)  # type: ignore[arg-type]
        with computed.open("ab") as handle:
            handle.write(b".")
        return found

    dumping.compute = counted  # type: ignore[assignment]
    dumping.dump(settings(), **given, out=out)


def run(given: dict[str, Path], out: Path, computed: Path, kill_after: float | None = None) -> bool:
    """Whether it came to its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlgen.activations.dump", "tests.activations.test_faults"])
    process = context.Process(target=dump_and_count, args=(given, out, computed))
    process.start()
    process.join(kill_after or 120)
    if process.is_alive():
        process.kill()
        process.join(10)
        return False
    assert process.exitcode == 0
    return True


def test_twenty_kills_change_nothing_and_lose_at_most_one_shard_each(given: dict[str, Path], tmp_path: Path) -> None:
    run(given, tmp_path / "warm.zarr", tmp_path / "warm")
    start = time.monotonic()
    run(given, tmp_path / "whole" / "part-000.zarr", tmp_path / "once")
    seconds = time.monotonic() - start
    assert (tmp_path / "once").stat().st_size == SHARDS
    moments, kills = random.Random(0), 0
    out, computed = tmp_path / "killed" / "part-000.zarr", tmp_path / "computed"
    for _ in range(KILLS * 5):
        kills += not run(given, out, computed, kill_after=moments.uniform(0.0, 0.7 * seconds))
        if kills == KILLS:
            break
        if out.exists():  # ended before it was killed: once more from the start
            assert content_digest(out) == content_digest(tmp_path / "whole" / "part-000.zarr")
            subprocess.run(["rm", "-r", out], check=True)
            computed.unlink()
    assert kills == KILLS
    if not out.exists():
        run(given, out, computed)
    assert content_digest(out) == content_digest(tmp_path / "whole" / "part-000.zarr")
    assert not list(verify(out))
    assert computed.stat().st_size <= SHARDS + KILLS, "a kill loses at most one shard that had been computed"


def test_several_processes_make_the_same_bytes(given: dict[str, Path], tmp_path: Path) -> None:
    dumping.dump(settings(), **given, out=tmp_path / "one" / "part-000.zarr", ranks=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dumping.dump(settings(), **given, out=tmp_path / "one-thread" / "part-000.zarr", ranks=1)
    finally:
        torch.set_num_threads(threads)
    dumping.dump(settings(), **given, out=tmp_path / "two" / "part-000.zarr", ranks=2)
    digests = {name: content_digest(tmp_path / name / "part-000.zarr") for name in ("one-thread", "two")}
    assert digests["two"] == digests["one-thread"]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own. Skips the test where it cannot be made."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_what_is_written(given: dict[str, Path], tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "part-000.zarr"
    dumping.dump(settings(), **given, out=whole)
    with small_disk(tmp_path / "disk", "2m") as disk:
        out = disk / "part-000.zarr"
        with pytest.raises(StudyError, match=r"shard \d+ cannot be written \(No space left on device\); free space"):
            dumping.dump(settings(), **given, out=out)
        partial = out.with_name(out.name + ".partial")
        kept = len(list(partial.rglob("shard-*.json")))
        assert 3 <= kept < SHARDS
        subprocess.run(["mount", "-o", "remount,size=32m", disk], check=True)
        before = {path: path.stat().st_mtime_ns for path in (partial / ACTIVATIONS / "c").rglob("0") if path.is_file()}
        dumping.dump(settings(), **given, out=out)
        after = [out / path.relative_to(partial) for path in before]
        unchanged = sum(path.stat().st_mtime_ns == before[old] for path, old in zip(after, before, strict=True))
        assert unchanged >= kept
        assert content_digest(out) == content_digest(whole)


def test_a_folder_that_cannot_be_written_is_named(given: dict[str, Path], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StudyError, match=r"part-000\.zarr\.partial: cannot be written \(Read-only file system\)"):
            dumping.dump(settings(), **given, out=disk / "part-000.zarr")


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_codecs_keep_every_bit(given: dict[str, Path], tmp_path: Path, codec: str) -> None:
    from rlgen.activations.store import StoreReader

    for name in ("none", codec):
        dumping.dump(settings(name), **given, out=tmp_path / name)
    plain, packed = (StoreReader([tmp_path / name]) for name in ("none", codec))
    for layer in (1, 2):
        assert np.array_equal(plain.read_stored(100, 5000, layer), packed.read_stored(100, 5000, layer))
