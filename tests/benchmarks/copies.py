"""What copies on a local disk save a fit's loader on a slow file system: `python tests/benchmarks/copies.py` (by FUSE).

It is made slow on purpose (tests/activations/slow_mount.py): a seek costs 10 ms, all reads together get 200 MB/s.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from rlgen.activations.copies import local_copies
from rlgen.activations.joined import join
from rlgen.activations.loader import Loader
from tests.activations.slow_mount import missing, mounted
from tests.activations.synthetic import write_store

SEEK, RATE = 0.01, 200e6
TOKENS, WIDTH, EPOCHS, BUFFER = 16384, 1024, (1, 2, 4), 1 << 25
RUNS = 3


def seconds(stores: list[Path], epochs: int) -> float:
    """Wall time of a loader's batches; copies are made if `RLGEN_SCRATCH` is set, and removed within it."""
    start = time.perf_counter()
    with local_copies() as copies:
        loader = Loader(join([[path] for path in stores], copies), 1, 1024, seed=0, epochs=epochs, buffer_bytes=BUFFER)
        for _ in loader:
            pass
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    if missing():
        raise SystemExit(missing())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        acts = np.random.default_rng(0).standard_normal((TOKENS, 1, WIDTH)).astype(np.float32)
        shape = {"chunk_tokens": 512, "shard_tokens": 4096}
        for name in ("base", "rl"):
            write_store(root / "afar" / name / "part-000.zarr", name, acts, **shape)
        print(f"| epochs, least of {RUNS} | read from afar, s | with copies, s |\n|---|---|---|")
        for epochs in EPOCHS:
            least = []
            for scratch in ("", folder):
                os.environ["RLGEN_SCRATCH"] = scratch
                found = []
                for run in range(RUNS):
                    point = root / f"mount-{epochs}-{bool(scratch)}-{run}"
                    with mounted(root / "afar", point, SEEK, RATE):
                        found.append(seconds([point / name / "part-000.zarr" for name in ("base", "rl")], epochs))
                least.append(min(found))
            print(f"| {epochs} | {least[0]:.1f} | {least[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
