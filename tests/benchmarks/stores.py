"""Stores: how fast they are read, written and dumped, each beside a limit or rival measured in the same run.

`python tests/benchmarks/stores.py [loader|larger|memory|codecs|dump|open ...] [--folder DIR] [--gigabytes 3]`

Cold: the page cache is emptied of the files before each run. A store of terabytes is never in memory, not even in the
course of an epoch: `larger` reads in a control group with less memory, page cache included, than the store takes (root
is needed to make one). Rivals take turns, so that a slow moment of the machine falls on all of them; figures, and
ratios, are medians of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlgen.activations.dump import dump
from rlgen.activations.joined import join
from rlgen.activations.layout import Layout, read_attributes
from rlgen.activations.loader import Loader
from rlgen.activations.store import StoreReader
from rlgen.activations.writer import StoreWriter
from rlgen.data.corpus import model_inputs
from rlgen.models import load_model, residuals
from rlgen.stage import write_json
from rlgen.study.sections import Activations
from rlgen.study.stages import DumpSettings

MODELS, D = 3, 2560
CHUNK, SHARD = 512, 65536
BATCH = 1024
ROUNDS = 5
MIB = 1 << 20
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Run the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[], choices=[*PARTS, []])
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary folder by default")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the stores that are read")
    parser.add_argument("--reader", choices=READERS, help="only this one, over what is in the folder: for `larger`")
    chosen = parser.parse_args()
    if chosen.reader:
        print(READERS[chosen.reader](chosen.folder))
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for name in chosen.parts or PARTS:
            print(f"\n### {name}\n", flush=True)
            PARTS[name](Path(folder), chosen.gigabytes)


# ------------------------------------------------------------------------------------------- loader


def loader(folder: Path, gigabytes: float) -> None:
    """Batches from three stores, against a sequential read of the same bytes and against rows from a memory map."""
    files = written(folder, gigabytes)
    rates: dict[str, dict[str, list[float]]] = {"cold": {}, "warm": {}}
    for _ in range(ROUNDS):
        for state, found in rates.items():
            for name, run in READERS.items():
                if state == "cold":
                    forget(list(chain(*files.values())))
                else:
                    touch(files[name])
                found.setdefault(name, []).append(run(folder))
    for state, found in rates.items():
        table(f"page cache {state}", folder, found)


def larger(folder: Path, gigabytes: float) -> None:
    """The same in processes with a third of the store's size, but at least 2 GiB, as memory and page cache."""
    files = written(folder, gigabytes)
    limit = max(raw_file(folder).stat().st_size // 3, 2 << 30)
    rates: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name in READERS:
            forget(list(chain(*files.values())))
            with control_group(limit) as processes:
                words = [sys.executable, __file__, "--reader", name, "--folder", str(folder)]
                joined = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(processes), *words]
                done = subprocess.run(joined, check=True, capture_output=True, text=True, timeout=600)
            rates.setdefault(name, []).append(float(done.stdout))
    table(f"{limit / 1e9:.1f} GB of memory and page cache", folder, rates)


def table(state: str, folder: Path, rates: dict[str, list[float]]) -> None:
    """Rates beside the first one, the limit, and the last one, the rival."""
    size = raw_file(folder).stat().st_size
    limit, *_, rival = rates.values()
    print(f"\n{size / 1e9:.1f} GB, {MODELS} models x {D}, batches of {BATCH}, to {DEVICE}; {state}\n")
    print("| reader | GB/s | million tokens/s | times memmap | times rows |\n|---|---|---|---|---|")
    for name, found in rates.items():
        rate = statistics.median(found)
        cells = [f"{rate / 1e9:.4f}", f"{rate / (MODELS * D * 2) / 1e6:.5f}"]
        cells += [f"{statistics.median(map(truediv, found, other)):.2f}" for other in (limit, rival)]
        print(f"| {' | '.join([name, *cells])} |", flush=True)


@contextlib.contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A control group with so many bytes of memory; the file that a process' number is written to, to be in it."""
    old = Path("/sys/fs/cgroup/memory")
    root, key = (old, "memory.limit_in_bytes") if old.is_dir() else (old.parent, "memory.max")
    group = root / f"rlgen-{os.getpid()}"
    group.mkdir()
    try:
        (group / key).write_text(str(limit))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def sequential(folder: Path) -> float:
    """Bytes/s of copying a memory map to memory, from its start to its end."""
    raw = raw_file(folder)
    start = time.perf_counter()
    mapped = np.memmap(raw, dtype=np.uint16, mode="r").reshape(-1, D)
    for low in range(0, len(mapped), CHUNK):
        np.array(mapped[low : low + CHUNK])
    return raw.stat().st_size / (time.perf_counter() - start)


def shuffled(folder: Path) -> float:
    """Bytes/s of one epoch of our batches."""
    start = time.perf_counter()
    batches = Loader(join([[store] for store in store_folders(folder)]), 1, BATCH, seed=0, device=DEVICE)
    count = sum(batch.numel() * batch.element_size() for batch in batches)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - start)


class Rows(torch.utils.data.Dataset[torch.Tensor]):
    """One row of each model's memory map at a time: how activation caches are commonly read."""

    def __init__(self, flat: list[Path], advised: bool) -> None:
        self._mapped = []
        for path in flat:
            mapped = np.memmap(path, dtype=np.int16, mode="r")
            if advised:
                mapped._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
            self._mapped.append(mapped.reshape(-1, D))

    def __len__(self) -> int:
        return len(self._mapped[0])

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([mapped[index] for mapped in self._mapped])).view(torch.bfloat16)


def rows(folder: Path, advised: bool = False, seconds: float = 10.0) -> float:
    """Bytes/s of a shuffling DataLoader over single rows, for so many seconds.

    `advised`: the kernel is told not to read ahead, as it does otherwise, up to megabytes for a row of kilobytes.
    """
    data = torch.utils.data.DataLoader(Rows(flat_files(folder), advised), BATCH, shuffle=True, num_workers=2)
    start, count = time.perf_counter(), 0
    for batch in data:
        count += batch.numel() * batch.element_size()
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


READERS: dict[str, Callable[[Path], float]] = {
    "numpy.memmap, sequential": sequential,
    "rlgen Loader, shuffled": shuffled,
    "rows of memory maps, MADV_RANDOM, torch DataLoader": partial(rows, advised=True),
    "rows of memory maps, torch DataLoader": rows,
}
"""The limit, ours, the rival: bytes/s over what `written` has written to a folder."""


# ------------------------------------------------------------------------------------------- memory


def memory(folder: Path, gigabytes: float) -> None:
    """Peak memory of a process that reads a whole store, for stores of 1 to 20 times its buffer."""
    written(folder, gigabytes)
    stores = store_folders(folder)
    size = sum(path.stat().st_size for path in stores_files(stores))
    buffer = int(size / 20)
    program = (
        "import sys; from pathlib import Path; from itertools import islice\n"
        "from rlgen.activations.loader import Loader; from rlgen.activations.joined import join\n"
        "stores, buffer, share = [[Path(p)] for p in sys.argv[3:]], int(sys.argv[1]), float(sys.argv[2])\n"
        "status = lambda key: int(Path('/proc/self/status').read_text().split(key)[1].split()[0])\n"
        "loader = Loader(join(stores), 1, 1024, 0, buffer_bytes=buffer)\n"
        "Path('/proc/self/clear_refs').write_text('5')  # forget the peak so far\n"
        "before = status('VmRSS:')\n"
        "for batch in islice(loader, int(share * len(loader))): pass\n"
        "print((status('VmHWM:') - before) * 1024)\n"
    )
    print(f"buffer {buffer / MIB:.0f} MiB\n\n| read, times the buffer | peak memory above start, MiB |\n|---|---|")
    for times in (1, 5, 10, 20):
        command = [sys.executable, "-c", program, str(buffer), str(times / 20), *map(str, stores)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        print(f"| {times} | {int(done.stdout) / MIB:.0f} |")


# ------------------------------------------------------------------------------------------- codecs


def codecs(folder: Path, _: float) -> None:
    """Size, and speed of writing and of reading whole chunks, by codec: ours, Zarr-python's, zarrs' if there."""
    import zarr

    pipelines = {"zarr-python": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
    try:
        import zarrs  # noqa: F401

        pipelines["zarrs"] = "zarrs.ZarrsCodecPipeline"
    except ImportError:
        print("(zarrs is not installed and left out)\n")
    acts = bits(4 * SHARD)
    print("| codec | library | share of plain size | write, GB/s | read cold, GB/s | read warm, GB/s |")
    print("|---|---|---|---|---|---|")
    for codec in ("none", "lz4", "zstd"):
        store = folder / codec
        start = time.perf_counter()
        write_store(store, acts, codec=codec)
        seconds = time.perf_counter() - start
        reader = StoreReader([store])

        def read_ours(reader: StoreReader = reader) -> None:
            out = np.empty((CHUNK, D), dtype=np.uint16)
            for block in range(len(reader.blocks)):
                reader.read_block(block, 1, out)

        report(codec, "rlgen", store, acts.nbytes, seconds, read_ours)
        for library, pipeline in pipelines.items():
            with zarr.config.set({"codec_pipeline.path": pipeline}):
                found = zarr.open_array(store / "activations", mode="r+")
                start = time.perf_counter()
                for low in range(0, len(acts), SHARD):
                    found[low : low + SHARD] = acts[low : low + SHARD]
                seconds = time.perf_counter() - start

                def read_zarr(found: Any = found) -> None:
                    for low in range(0, found.shape[0], CHUNK):
                        found[low : low + CHUNK, 0]

                report(codec, library, store, acts.nbytes, seconds, read_zarr)
        shutil.rmtree(store)


def report(codec: str, library: str, store: Path, size: int, seconds: float, read: Callable[[], None]) -> None:
    """A row of the codecs' table."""
    files = stores_files([store])
    share = sum(path.stat().st_size for path in files) / size
    rates = {}
    for state in ("cold", "warm"):
        if state == "cold":
            forget(files)
        start = time.perf_counter()
        read()
        rates[state] = size / (time.perf_counter() - start) / 1e9
    row = (codec, library, share, size / seconds / 1e9, rates["cold"], rates["warm"])
    print("| " + " | ".join(cell if isinstance(cell, str) else f"{cell:.2f}" for cell in row) + " |", flush=True)


# ------------------------------------------------------------------------------------------- dump


def dump_rate(folder: Path, _: float) -> None:
    """Tokens/s of a dump at the middle layer, against the whole forward pass and one that stops there."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    gpu = torch.cuda.is_available()
    shape: dict[str, Any] = (
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
        if gpu
        else {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
              "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32768}
    )  # fmt: skip
    length, row_count, batch_rows, shard = (1024, 2048, 32, 65536) if gpu else (256, 128, 8, 8192)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**shape), dtype=torch.bfloat16 if gpu else torch.float32)
    model.save_pretrained(folder / "base")
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.data.corpora import write_corpus  # the miniature's tokenizer stands for any

    tokens = np.random.default_rng(0).integers(3, 40, (row_count, length)).astype(np.int32)
    corpus = write_corpus(folder / "corpus", tokens, np.zeros_like(tokens), np.ones(tokens.shape, dtype=bool))
    from rlgen.data.miniature import build_tokenizer

    build_tokenizer().save_pretrained(folder / "base")
    network, layer = load_model(folder / "base"), shape["num_hidden_layers"] // 2
    chosen = Activations(layers=[layer], batch_rows=batch_rows, shard_tokens=shard)

    def whole() -> None:
        for low in range(0, row_count, batch_rows):
            with torch.no_grad():
                network(**inputs(corpus, low, batch_rows, network.device), use_cache=False)

    def stopped() -> None:
        for low in range(0, row_count, batch_rows):
            residuals(network, [layer], **inputs(corpus, low, batch_rows, network.device))

    def dumped() -> None:
        import rlgen.activations.dump as dumping

        dumping.load_model = lambda _: network  # type: ignore[assignment]
        dump(
            DumpSettings(activations=chosen, part=0), model=folder / "base", corpus=corpus, out=folder / "part-000.zarr"
        )
        shutil.rmtree(folder / "part-000.zarr")

    rates: dict[str, list[float]] = {}
    contenders = {"forward pass, all layers": whole, f"forward pass to layer {layer}": stopped, "dump": dumped}
    for round_ in range(ROUNDS + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if gpu:
                torch.cuda.synchronize()
            if round_:
                rates.setdefault(name, []).append(tokens.size / (time.perf_counter() - start))
    limits = [statistics.median(rates[name]) for name in list(contenders)[:2]]
    print(f"d {shape['hidden_size']}, {shape['num_hidden_layers']} layers, vocabulary {shape['vocab_size']:,}\n")
    print("| | tokens/s | times all layers | times stopping there |\n|---|---|---|---|")
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"| {name} | {rate:,.0f} | {rate / limits[0]:.2f} | {rate / limits[1]:.2f} |")


def inputs(corpus: Path, low: int, count: int, device: torch.device) -> dict[str, torch.Tensor]:
    """What a model is given of some rows."""
    given = model_inputs(corpus, slice(low, low + count))
    return {name: torch.from_numpy(values).to(device) for name, values in given.items()}


# ------------------------------------------------------------------------------------------- open


def open_parts(folder: Path, _: float) -> None:
    """Opening a store of 64 parts as large as the paper's: 400M tokens x 2,560, 95 shards a part."""
    part = write_store(folder / "part-000.zarr", bits(64, d=8), shard_tokens=64, chunk_tokens=64)
    attributes = read_attributes(part).model_dump(mode="json")
    parts = []
    for index in range(64):
        here = folder / "paper" / f"part-{index:03d}.zarr"
        shutil.copytree(part, here)
        changed = attributes | {
            "part": index, "parts": 64, "d": D, "tokens": 95 * SHARD, "chunk_tokens": CHUNK, "shard_tokens": SHARD,
            "first_shard": 95 * index, "checksums": {"activations": ["0" * 64] * 95, "tokens": ["0" * 64]},
            "statistics": {"count": 1, "sum": [[0.1234567890123] * D], "norm_sum": [1.0], "norm_squared_sum": [1.0]},
        }  # fmt: skip
        write_json(here / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": changed})
        parts.append(here)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        reader = StoreReader(parts)
        _ = reader.blocks
        times.append(time.perf_counter() - start)
    print(f"{reader.tokens_total:,} tokens: opened in {statistics.median(times):.3f} s (limit 1 s)")


# ------------------------------------------------------------------------------------------- helpers


def bits(tokens: int, d: int = D, seed: int = 0) -> NDArray[np.uint16]:
    """Gaussian bf16 activations, [tokens, 1, d], as their bits."""
    random = torch.Generator().manual_seed(seed)
    acts = torch.empty(tokens, 1, d, dtype=torch.bfloat16)
    for low in range(0, tokens, SHARD):
        acts[low : low + SHARD] = torch.randn(acts[low : low + SHARD].shape, generator=random)
    found: NDArray[np.uint16] = acts.view(torch.int16).numpy().view(np.uint16)
    return found


def write_store(folder: Path, acts: NDArray[np.uint16], model: str = "base", **change: Any) -> Path:
    """A store of one part."""
    count, _, d = acts.shape
    chosen: dict[str, Any] = {
        "model": model, "model_digest": model, "tokenizer_digest": "t", "corpus_digest": "c", "layers": [1], "d": d,
        "dtype": "bfloat16", "part": 0, "parts": 1, "tokens": count, "first_shard": 0, "chunk_tokens": CHUNK,
        "shard_tokens": SHARD, "codec": "none",
    }  # fmt: skip
    layout = Layout(**chosen | change)
    with tempfile.TemporaryDirectory() as scratch:
        writer = StoreWriter(folder, Path(scratch), layout)
        for shard in range(layout.shards):
            where = layout.shard(shard)
            place = np.arange(where.start, where.stop)
            norm = np.ones((len(place), 1), dtype=np.float32)
            small = {
                "tokens": place.astype(np.int32),
                "document": place.astype(np.int32),
                "position": place,
                "norm": norm,
            }
            writer.write(shard, acts[where], small, np.zeros((1, d)))
        writer.finish()
    return folder


def store_folders(folder: Path) -> list[Path]:
    """The models' stores."""
    return [folder / f"model-{index}" for index in range(MODELS)]


def flat_files(folder: Path) -> list[Path]:
    """The same, each as one flat file."""
    return [folder / f"flat-{index}" for index in range(MODELS)]


def raw_file(folder: Path) -> Path:
    """The same in one file."""
    return folder / "raw"


def written(folder: Path, gigabytes: float) -> dict[str, list[Path]]:
    """Stores of three models, and the same bytes in a flat file a model and in one for all, made once; by reader."""
    stores, flat, raw = store_folders(folder), flat_files(folder), raw_file(folder)
    if not raw.exists():
        tokens = max(SHARD, int(gigabytes * 1e9 / (MODELS * D * 2)) // CHUNK * CHUNK)
        acts = [bits(tokens, seed=index) for index in range(MODELS)]
        for index, store in enumerate(stores):
            write_store(store, acts[index], model=f"m{index}")
            acts[index].tofile(flat[index])
        with raw.open("wb") as handle:
            for low in range(0, tokens, CHUNK):
                handle.write(np.concatenate([a[low : low + CHUNK] for a in acts], axis=1).tobytes())
        os.sync()
    return dict(zip(READERS, ([raw], stores_files(stores), flat, flat), strict=True))


def stores_files(stores: list[Path]) -> list[Path]:
    """The activations' shard files."""
    return [path for store in stores for path in (store / "activations" / "c").rglob("*") if path.is_file()]


def forget(files: list[Path]) -> None:
    """Empty the page cache of some files."""
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def touch(files: list[Path]) -> None:
    """Read files to the page cache."""
    for file in files:
        with file.open("rb") as handle:
            while handle.read(16 * MIB):
                pass


PARTS: dict[str, Callable[[Path, float], None]] = {
    "loader": loader, "larger": larger, "memory": memory, "codecs": codecs, "dump": dump_rate, "open": open_parts,
}  # fmt: skip

if __name__ == "__main__":
    main()
