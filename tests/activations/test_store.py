"""Stores: written whole, read by anybody, joined only over the same tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from rlgen.activations.joined import join
from rlgen.activations.layout import Layout, shard_file
from rlgen.activations.store import StoreReader, group_parts
from rlgen.activations.writer import StoreWriter
from rlgen.errors import StudyError
from rlgen.study.sections import Activations
from tests.activations.synthetic import write_store

RANDOM = np.random.default_rng(0)


def random_acts(count: int, layers: int = 2, d: int = 5) -> Any:
    return RANDOM.standard_normal((count, layers, d)).astype(np.float32)


def test_plain_zarr_reads_a_store(tmp_path: Path) -> None:
    acts = random_acts(700)
    store = write_store(tmp_path / "base" / "part-000.zarr", "base", acts)
    group = zarr.open_group(store, mode="r")
    assert group.attrs["model"] == "base"
    assert np.array_equal(group["activations"][:], acts)
    assert np.array_equal(group["tokens"][:], np.arange(700))
    assert np.allclose(group["norm"][:], np.linalg.norm(acts, axis=-1))
    assert group.attrs["statistics"]["count"] == 700
    assert np.allclose(group.attrs["statistics"]["sum"], acts.sum(axis=0, dtype=np.float64))


def test_reading_crosses_parts_and_shards(tmp_path: Path) -> None:
    acts = random_acts(900)
    parts = [
        write_store(
            tmp_path / f"part-{i}.zarr", "base", acts[low:high], np.arange(low, high, dtype=np.int32), part=i, parts=3
        )
        for i, (low, high) in enumerate([(0, 300), (300, 333), (333, 900)])
    ]
    reader = StoreReader(parts[::-1])
    assert reader.tokens_total == 900
    assert np.array_equal(reader.tokens, np.arange(900))
    assert np.array_equal(reader.read(250, 700, layer=2), acts[250:700, 1])
    assert np.array_equal(reader.norms(1), np.linalg.norm(acts[:, 0], axis=-1).astype(np.float32))
    covered = np.concatenate([np.arange(start, stop) for start, stop in reader.blocks])
    assert np.array_equal(covered, np.arange(900))
    with pytest.raises(StudyError, match=r"parts \[0, 2\] given, 0 to 2 needed"):
        StoreReader([parts[0], parts[2]])
    with pytest.raises(StudyError, match=r"holds layers \[1, 2\], not 3"):
        reader.read(0, 10, layer=3)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("tokenizer", {"tokenizer_digest": "other"}),
        ("corpus", {"corpus_digest": "other"}),
        ("layers", {"layers": [1, 3]}),
    ],
)
def test_stores_that_differ_are_not_joined(tmp_path: Path, what: str, change: dict[str, Any]) -> None:
    base = write_store(tmp_path / "base" / "a.zarr", "base", random_acts(300))
    arm = write_store(tmp_path / "rl" / "a.zarr", "rl", random_acts(300), **change)
    with pytest.raises(StudyError, match=f"(?s)base.a.zarr and .*rl.a.zarr cannot be joined: {what}.*`base`.*`rl`"):
        join([[base], [arm]])


@pytest.mark.parametrize(("count", "d", "what"), [(301, 5, "number of tokens"), (300, 6, "width d")])
def test_stores_of_other_shapes_are_not_joined(tmp_path: Path, count: int, d: int, what: str) -> None:
    base = write_store(tmp_path / "base" / "a.zarr", "base", random_acts(300))
    arm = write_store(tmp_path / "rl" / "a.zarr", "rl", random_acts(count, d=d))
    with pytest.raises(StudyError, match=f"{what} .* of `base`, .* of `rl`"):
        join([[base], [arm]])


def test_other_token_ids_are_not_joined(tmp_path: Path) -> None:
    tokens = np.arange(300, dtype=np.int32)
    tokens[123] = 7
    base = write_store(tmp_path / "base" / "a.zarr", "base", random_acts(300))
    arm = write_store(tmp_path / "rl" / "a.zarr", "rl", random_acts(300), tokens)
    with pytest.raises(StudyError, match="from token 123 on, `base` and `rl` saw different token ids"):
        join([[base], [arm]])


def test_one_store_joins_itself(tmp_path: Path) -> None:
    acts = random_acts(300)
    base = write_store(tmp_path / "base" / "a.zarr", "base", acts)
    joined = join(group_parts([base, base], ["base", "base"]))
    assert joined.models == ["base", "base"]
    assert np.array_equal(joined.read(10, 20, 1), np.stack([acts[10:20, 0]] * 2, axis=1))
    with pytest.raises(StudyError, match="none of model `rl`, only of base"):
        group_parts([base], ["base", "rl"])


@pytest.mark.parametrize("shards", [1, 3, 40])
def test_a_store_is_one_file_a_shard_and_eleven_more(tmp_path: Path, shards: int) -> None:
    """Shared file systems count files: metadata of the group and its five arrays, four small arrays, the manifest."""
    store = write_store(tmp_path / "a.zarr", "base", random_acts(shards * 256))
    assert len([path for path in store.rglob("*") if path.is_file()]) == shards + 10, "the manifest is the stage's"


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a.zarr", "base", random_acts(600))
    layout = Layout.model_validate({k: zarr.open_group(store).attrs[k] for k in Layout.model_fields})
    scratch = tmp_path / "a.zarr.scratch"
    assert all(StoreWriter(store, scratch, layout).done(shard) for shard in range(3))
    file = shard_file(store, "activations", 1)
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    assert [StoreWriter(store, scratch, layout).done(shard) for shard in range(3)] == [True, False, True]


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_plain_zarr_reads_every_codec(tmp_path: Path, codec: str) -> None:
    """Written by us and read by zarr-python, and the other way round; the last chunk and shard are short."""
    acts = random_acts(700)
    store = write_store(tmp_path / "a", "base", acts, codec=codec)
    array = zarr.open_array(store / "activations", mode="r+")
    assert np.array_equal(array[:], acts)
    array[:] = acts[::-1]
    assert np.array_equal(StoreReader([store]).read(0, 700, layer=2), acts[::-1, 1])


def test_at_the_paper_s_scale_a_model_has_few_files(tmp_path: Path) -> None:
    """400M tokens in 64 parts, at the default sizes."""
    store = write_store(tmp_path / "a", "base", random_acts(600))
    shards = 3
    beside_shards = sum(path.is_file() for path in store.rglob("*")) - shards
    total = -(-400_000_000 // Activations(layers=[1]).shard_tokens)
    manifest = 1
    assert total + 64 * (beside_shards + manifest) < 10_000
