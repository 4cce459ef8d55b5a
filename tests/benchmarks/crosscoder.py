"""The crosscoder engine on this machine, beside plain dense PyTorch in the same run.

`python tests/benchmarks/crosscoder.py [step|crossover ...] [--rounds 5] [--steps 10]`

`step`: a BatchTopK fit's step, ours against the same model, data and optimiser as dense float32 products; they take
turns. `crossover`: the share of active codes from which our dense products are faster than our sparse ones.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlgen.crosscoder import sparse
from rlgen.crosscoder.adam import Adam
from rlgen.crosscoder.losses import Objective
from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig
from rlgen.crosscoder.sparse import Pattern
from rlgen.study.sections import Crosscoder as Settings

MODELS, D, FEATURES, K, BATCH = 3, 256, 8192, 32, 1024
LR, BATCHES, TRUE_FEATURES = 1e-3, 32, 4096


def main() -> None:
    """Run the parts that are asked for, or all."""
    parts = {"step": step, "crossover": crossover}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(parts), choices=[*parts, []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of each contender a round")
    chosen = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")
    for name in chosen.parts:
        print(f"\n### {name}\n", flush=True)
        parts[name](chosen.rounds, chosen.steps)


def step(rounds: int, steps: int) -> None:
    """Tokens a second, and the loss after equal tokens."""
    batches = activations()
    contenders: dict[str, Callable[[Tensor], float]] = {"dense float32 PyTorch": dense(), "rlgen": ours()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    losses: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):  # the first one warms up
        for name, train in contenders.items():
            start = time.perf_counter()
            losses[name] += [train(batches[(turn * steps + i) % BATCHES]) for i in range(steps)]
            if turn:
                rates[name].append(steps * BATCH / (time.perf_counter() - start))
    print(f"N {MODELS}, d {D}, F {FEATURES:,}, k {K}, batch {BATCH:,}\n")
    print("| | tokens/s | times dense | loss of the last round |\n|---|---|---|---|")
    usual = statistics.median(rates["dense float32 PyTorch"])
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"| {name} | {rate:,.0f} | {rate / usual:.1f} | {statistics.mean(losses[name][-steps:]):.2f} |")


def activations() -> list[Tensor]:
    """Batches [B, M, d] of a world with known features of heavy-tailed firing rates."""
    random = torch.Generator().manual_seed(0)
    rows_FI = nn.functional.normalize(torch.randn(TRUE_FEATURES, MODELS * D, generator=random), dim=-1)
    rate_F = 1 / torch.arange(1, TRUE_FEATURES + 1)
    rate_F *= 24 / rate_F.sum()
    found = []
    for _ in range(BATCHES):
        active_BF = torch.rand(BATCH, TRUE_FEATURES, generator=random) < rate_F
        acts_BI = (active_BF * torch.rand(BATCH, TRUE_FEATURES, generator=random)) @ rows_FI
        acts_BI += 0.02 * torch.randn(acts_BI.shape, generator=random)
        found.append((acts_BI * (MODELS * D) ** 0.5 / acts_BI.norm(dim=-1).mean()).view(BATCH, MODELS, D))
    return found


def new_crosscoder() -> Crosscoder:
    """The model that both begin with."""
    names = ["base", "sft", "rl"]
    found = Crosscoder(CrosscoderConfig(names, D, FEATURES, "batch_topk", K, layer=1))
    found.initialise(seed=0)
    return found


def ours() -> Callable[[Tensor], float]:
    """Our step on a batch; it returns the loss."""
    coder = new_crosscoder()
    settings = Settings(models=coder.config.models, features=FEATURES, k=K, aux_weight=0.0)
    objective = Objective(settings, coder, torch.ones(MODELS), torch.ones(MODELS))
    optimiser, none_dead_F = Adam(coder.parameters()), torch.zeros(FEATURES, dtype=torch.bool)

    def train(acts_BMD: Tensor) -> float:
        terms = objective(acts_BMD, 1.0, none_dead_F)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        grads = [p.grad for p in coder.parameters() if p.grad is not None]
        optimiser.step(LR, divisor=torch.nn.utils.get_total_norm(grads).clamp(min=1.0))
        objective.encoder.refresh()
        return terms.value

    return train


def dense() -> Callable[[Tensor], float]:
    """The same by dense products, autograd and PyTorch's optimiser."""
    coder = new_crosscoder()
    optimiser = torch.optim.Adam(coder.parameters(), lr=LR, fused=True)

    def train(acts_BMD: Tensor) -> float:
        optimiser.zero_grad()
        codes_BF = torch.relu(acts_BMD.flatten(1) @ coder.W_enc.flatten(1).T + coder.b_enc)
        scores_BF = codes_BF.detach() * coder.selection_weights().detach()
        limit = scores_BF.flatten().topk(BATCH * K, sorted=True).values[-1]
        decoded_BI = (codes_BF * (scores_BF >= limit)) @ coder.W_dec.flatten(1)
        error_BMD = decoded_BI.view_as(acts_BMD) + coder.b_dec - acts_BMD
        loss = error_BMD.square().sum() / BATCH
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimiser.step()
        return float(loss.detach())

    return train


def crossover(rounds: int, steps: int) -> None:
    """Forward and backward products of one pattern, both ways."""
    x_BI, W_FI = torch.randn(BATCH, MODELS * D), torch.randn(FEATURES, MODELS * D)
    grad_FI = torch.zeros_like(W_FI)
    print("| share of active codes | sparse, ms | dense, ms |\n|---|---|---|")
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
