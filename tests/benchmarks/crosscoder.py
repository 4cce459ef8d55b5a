"""The crosscoder engine on this machine, beside its rivals in the same run.

`python tests/benchmarks/crosscoder.py [step|crossover ...] [--rounds 5] [--steps 10] [--peers PYTHON]`

`step`: training steps in turns, each contender in a process of its own: plain dense PyTorch, rlgen and, with `--peers`,
sae-lens and eai-sparsify. PYTHON is that of an environment made by `pip install torch==2.13.0; pip install sae-lens
eai-sparsify`. `crossover`: the share of active codes from which our dense products are faster than our sparse ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from contenders import BATCH, FEATURES, MODELS, D, K

from rlgen.crosscoder import sparse
from rlgen.crosscoder.sparse import Pattern

OURS, PEERS = ("dense", "rlgen"), ("sae-lens", "sparsify")


def main() -> None:
    """Run the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["step", "crossover"], choices=["step", "crossover", []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of each contender a round")
    parser.add_argument("--peers", help="the Python of an environment with sae-lens and eai-sparsify")
    chosen = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")
    if "step" in chosen.parts:
        contenders = dict.fromkeys(OURS, sys.executable)
        contenders |= {name: chosen.peers for name in PEERS if chosen.peers}
        step(contenders, chosen.rounds, chosen.steps)
    if "crossover" in chosen.parts:
        crossover(chosen.rounds)


class Worker:
    """A contender's process."""

    def __init__(self, name: str, python: str) -> None:
        words = [python, str(Path(__file__).with_name("contenders.py")), name]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words: object) -> dict[str, float]:
        """Its answer to a line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        found: dict[str, float] = json.loads(self._process.stdout.readline())
        return found

    def end(self) -> None:
        """Close its input, and wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def step(contenders: dict[str, str], rounds: int, steps: int) -> None:
    """Tokens a second, memory, and loss and FVE after equal tokens."""
    workers = {name: Worker(name, python) for name, python in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    last: dict[str, dict[str, float]] = {}
    for turn in range(rounds + 1):  # the first one warms up
        for name, worker in workers.items():
            last[name] = worker.ask("train", turn * steps, steps)
            if turn:
                seconds[name].append(last[name]["seconds"])
    found = {name: worker.ask("explain") for name, worker in workers.items()}
    for worker in workers.values():
        worker.end()
    print(
        f"\nN {MODELS}, d {D}, F {FEATURES:,}, k {K}, batch {BATCH:,};"
        f" {(rounds + 1) * steps} steps, by turns of {steps}\n"
    )
    print("| | tokens/s | times dense | peak memory | loss of the last turn | FVE, held out |")
    print("|---|---|---|---|---|---|")
    for name in workers:
        rate = steps * BATCH / statistics.median(seconds[name])
        ratio = statistics.median(map(_ratio, seconds["dense"], seconds[name]))
        memory, fve = found[name]["memory"] / 2**30, found[name]["fve"]
        print(f"| {name} | {rate:,.0f} | {ratio:.1f} | {memory:.2f} GiB | {last[name]['loss']:.4g} | {fve:.4f} |")


def _ratio(other: float, own: float) -> float:
    return other / own


def crossover(rounds: int) -> None:
    """Forward and backward products of one pattern, both ways."""
    x_BI, W_FI = torch.randn(BATCH, MODELS * D), torch.randn(FEATURES, MODELS * D)
    grad_FI = torch.zeros_like(W_FI)
    print("\n| share of active codes | sparse, ms | dense, ms |\n|---|---|---|")
    for share in (0.005, 0.02, 0.05, 0.1, 0.2, 0.4):
        codes_BF = torch.rand(BATCH, FEATURES) * (torch.rand(BATCH, FEATURES) < share)
        times: dict[float, list[float]] = {1.0: [], 0.0: []}
        for _ in range(rounds):
            for bound, found in times.items():
                sparse.DENSE = bound
                pattern = Pattern.of(codes_BF)
                values_N = codes_BF[pattern.rows_N, pattern.columns_N]
                start = time.perf_counter()
                pattern.dots(x_BI, W_FI)
                decoded_BI = pattern.times(values_N, W_FI)
                pattern.dots(decoded_BI, W_FI)
                pattern.transposed_times(values_N, decoded_BI, grad_FI)
                pattern.transposed_times(values_N, x_BI, grad_FI)
                found.append(time.perf_counter() - start)
        ours_ms, dense_ms = (1e3 * statistics.median(found) for found in times.values())
        print(f"| {share} | {ours_ms:.0f} | {dense_ms:.0f} |")


if __name__ == "__main__":
    main()
