"""The crosscoder engine on this machine, beside its rivals in the same run.

`python tests/benchmarks/crosscoder.py [step|encoder|crossover ...] [--rounds 5] [--steps 10] [--peers PYTHON]`

`step`: training steps in turns, each contender in a process of its own: plain dense PyTorch, rlgen and, with `--peers`,
sae-lens and eai-sparsify. PYTHON is that of an environment made by `pip install torch==2.13.0; pip install sae-lens
eai-sparsify`. On a GPU, at the paper's width, and beside dense products in bfloat16. The roofline is the encoder's
product, 2 B N d F flops, at the rate that bfloat16 products of this shape reach, and Adam's traffic, 28 bytes for each
of 2 N d F parameters, at the rate of copies in memory, both measured in the same run.

`encoder`: finding candidates, 2 k a token, from the rounded batch on: by the dense product, which is written to memory
and then read, and on a GPU beside it by the fused kernel, in each of its tiles.

`crossover`: the share of active codes from which our dense products are faster than our sparse ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from contenders import DEVICE, Shape
from torch import Tensor

from rlgen.crosscoder import sparse
from rlgen.crosscoder.candidates import candidates_of
from rlgen.crosscoder.sparse import Pattern

SHAPES = [Shape()] if DEVICE == "cpu" else [Shape(2560, 32768, 1024), Shape(2560, 32768, 4096)]
PARTS = ["step", "encoder", "crossover"]
OURS = ["dense", "rlgen"] if DEVICE == "cpu" else ["dense", "dense bfloat16", "rlgen"]
PEERS = ["sae-lens", "sparsify"]
ADAM_BYTES = 28
"""A parameter: itself, its gradient and two moments are read, all but the gradient written, 4 bytes each."""


def main() -> None:
    """Run the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], choices=[*PARTS, []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of each contender a round")
    parser.add_argument("--peers", help="the Python of an environment with sae-lens and eai-sparsify")
    chosen = parser.parse_args()
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{where}, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")
    parts = chosen.parts or PARTS
    if "step" in parts:
        contenders = dict.fromkeys(OURS, sys.executable)
        contenders |= {name: chosen.peers for name in PEERS if chosen.peers}
        for shape in SHAPES:
            step(contenders, shape, chosen.rounds, chosen.steps)
    if "encoder" in parts:
        for shape in SHAPES:
            encoder(shape, chosen.rounds)
    if "crossover" in parts:
        crossover(chosen.rounds)


class Worker:
    """A contender's process."""

    def __init__(self, name: str, python: str, shape: Shape) -> None:
        sizes = map(str, (shape.d, shape.features, shape.batch))
        words = [python, str(Path(__file__).with_name("contenders.py")), name, *sizes]
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


def step(contenders: dict[str, str], shape: Shape, rounds: int, steps: int) -> None:
    """Tokens a second, beside the roofline and the rivals; memory; loss and FVE after equal tokens."""
    workers = {name: Worker(name, python, shape) for name, python in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    limits: list[tuple[float, float]] = []
    last: dict[str, dict[str, float]] = {}
    for turn in range(rounds + 1):  # the first one warms up
        limits.append(roofline(shape))
        for name, worker in workers.items():
            last[name] = worker.ask("train", turn * steps, steps)
            if turn:
                seconds[name].append(last[name]["seconds"])
    found = {name: worker.ask("explain") for name, worker in workers.items()}
    for worker in workers.values():
        worker.end()
    product, traffic = (statistics.median(found) for found in zip(*limits, strict=True))
    print(
        f"\nN {shape.models}, d {shape.d:,}, F {shape.features:,}, k {shape.k}, batch {shape.batch:,};"
        f" {(rounds + 1) * steps} steps, by turns of {steps}"
    )
    print(f"roofline, a step: encoder's product {1e3 * product:.2f} ms, Adam's traffic {1e3 * traffic:.2f} ms\n")
    print("| | tokens/s | share of the roofline | times dense | peak memory | loss of the last turn | FVE, held out |")
    print("|---|---|---|---|---|---|---|")
    for name in workers:
        median = statistics.median(seconds[name])
        rate, share = steps * shape.batch / median, steps * (product + traffic) / median
        ratio = statistics.median(map(_ratio, seconds["dense"], seconds[name]))
        memory, fve = found[name]["memory"] / 2**30, found[name]["fve"]
        cells = [f"{rate:,.0f}", f"{share:.0%}", f"{ratio:.1f}", f"{memory:.2f} GiB"]
        print(f"| {' | '.join([name, *cells])} | {last[name]['loss']:.4g} | {fve:.4f} |")


def roofline(shape: Shape) -> tuple[float, float]:
    """Seconds of what a step cannot do without: the encoder's product in bfloat16, and Adam's memory traffic."""
    x_BI = torch.randn(shape.batch, shape.inputs, device=DEVICE).bfloat16()
    W_FI = torch.randn(shape.features, shape.inputs, device=DEVICE).bfloat16()
    pre_BF = x_BI.new_empty(shape.batch, shape.features)
    product = fastest(lambda: torch.mm(x_BI, W_FI.T, out=pre_BF))
    one, two = torch.zeros(2, shape.features, shape.inputs, device=DEVICE)
    copied = 2 * one.numel() * one.element_size()
    parameters = 2 * shape.features * shape.inputs
    return product, fastest(lambda: two.copy_(one)) * ADAM_BYTES * parameters / copied


def fastest(run: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of some runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found)


def _ratio(other: float, own: float) -> float:
    return other / own


def encoder(shape: Shape, rounds: int) -> None:
    """Every way to find candidates, in turns."""
    candidates = candidates_of(torch.randn(shape.features, shape.inputs, device=DEVICE))
    candidates.read(torch.randn(shape.batch, shape.inputs, device=DEVICE))
    above = statistics.NormalDist(0, shape.inputs**0.5).inv_cdf(1 - 2 * shape.k / shape.features)
    floor_F = torch.full((shape.features,), above, device=DEVICE)
    ways = candidates.ways()
    found = {name: len(way(floor_F)) for name, way in ways.items()}  # which warms up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(fastest(partial(way, floor_F)))
    print(f"\nN {shape.models}, d {shape.d:,}, F {shape.features:,}, batch {shape.batch:,}")
    print("\n| candidates by | ms | a token |\n|---|---|---|")
    for name in ways:
        print(f"| {name} | {1e3 * statistics.median(times[name]):.3g} | {found[name] / shape.batch:.1f} |")


def crossover(rounds: int) -> None:
    """Forward and backward products of one pattern, both ways."""
    shape = SHAPES[0]
    x_BI = torch.randn(shape.batch, shape.inputs, device=DEVICE)
    W_FI = torch.randn(shape.features, shape.inputs, device=DEVICE)
    grad_FI = torch.zeros_like(W_FI)
    size = (shape.batch, shape.features)
    print("\n| share of active codes | sparse, ms | dense, ms |\n|---|---|---|")
    for share in (0.005, 0.02, 0.05, 0.1, 0.2, 0.4):
        codes_BF = torch.rand(size, device=DEVICE) * (torch.rand(size, device=DEVICE) < share)
        times: dict[float, list[float]] = {1.0: [], 0.0: []}
        for _ in range(rounds):
            for bound, found in times.items():
                sparse.DENSE = bound
                pattern = Pattern.of(codes_BF)
                values_N = codes_BF[pattern.rows_N, pattern.columns_N]
                found.append(fastest(partial(products, pattern, values_N, x_BI, W_FI, grad_FI), 1))
        ours_ms, dense_ms = (1e3 * statistics.median(found) for found in times.values())
        print(f"| {share} | {ours_ms:.0f} | {dense_ms:.0f} |")


def products(pattern: Pattern, values_N: Tensor, x_BI: Tensor, W_FI: Tensor, grad_FI: Tensor) -> None:
    """What a step computes with a pattern."""
    pattern.dots(x_BI, W_FI)
    decoded_BI = pattern.times(values_N, W_FI)
    pattern.dots(decoded_BI, W_FI)
    pattern.transposed_times(values_N, decoded_BI, grad_FI)
    pattern.transposed_times(values_N, x_BI, grad_FI)


if __name__ == "__main__":
    main()
