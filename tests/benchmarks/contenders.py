"""One contender of `crosscoder.py`, in an environment of its own: `python contenders.py NAME D F B`, driven by lines.

`train START STEPS` answers {"seconds": ..., "loss": ...}, the mean over these steps; `explain` {"fve": ..., "memory":
...}, the share of held-out batches' variance that is explained and the highest memory in bytes: of the process, or
on the GPU if there is one. Every contender sees the same batches and takes its own training step on them.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LR, HELD_OUT, TRUE_FEATURES = 1e-3, 2, 4096
TOKENS = 32 * 1024
"""Batches are of so many different tokens."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Shape:
    """What is trained."""

    d: int = 256
    features: int = 8192
    batch: int = 1024
    models: int = 3
    k: int = 32

    @property
    def inputs(self) -> int:
        """The models' activations end to end."""
        return self.models * self.d

    @property
    def batches(self) -> int:
        """Different batches to train on."""
        return TOKENS // self.batch


def activations(shape: Shape) -> list[Tensor]:
    """Batches [B, M, d], the last ones held out, of a world with known features of heavy-tailed firing rates."""
    random = torch.Generator(DEVICE).manual_seed(0)
    size = (shape.batch, TRUE_FEATURES)
    directions_FI = torch.randn(TRUE_FEATURES, shape.inputs, generator=random, device=DEVICE)
    rows_FI = nn.functional.normalize(directions_FI, dim=-1)
    rate_F = 1 / torch.arange(1, TRUE_FEATURES + 1, device=DEVICE)
    rate_F *= 24 / rate_F.sum()
    found = []
    for _ in range(shape.batches + HELD_OUT):
        active_BF = torch.rand(size, generator=random, device=DEVICE) < rate_F
        acts_BI = (active_BF * torch.rand(size, generator=random, device=DEVICE)) @ rows_FI
        acts_BI += 0.02 * torch.randn(acts_BI.shape, generator=random, device=DEVICE)
        scaled_BI = acts_BI * shape.inputs**0.5 / acts_BI.norm(dim=-1).mean()
        found.append(scaled_BI.view(shape.batch, shape.models, shape.d))
    return found


class Contender(ABC):
    """Something that trains on batches [B, M, d]."""

    @abstractmethod
    def __init__(self, shape: Shape) -> None:
        """A new model, on DEVICE."""

    @abstractmethod
    def train(self, acts_BMD: Tensor) -> float:
        """One step; its loss, as the contender defines it."""

    @abstractmethod
    def reconstruct(self, acts_BMD: Tensor) -> Tensor:
        """x^, in the shape of the batch."""


class Ours(Contender):
    """rlgen's engine."""

    def __init__(self, shape: Shape) -> None:
        from rlgen.crosscoder.adam import Adam
        from rlgen.crosscoder.losses import Objective
        from rlgen.study.sections import Crosscoder as Settings

        self.coder = new_crosscoder(shape)
        settings = Settings(models=self.coder.config.models, features=shape.features, k=shape.k, aux_weight=0.0)
        self.objective = Objective(settings, self.coder, torch.ones(shape.models), torch.ones(shape.models))
        self.optimiser = Adam(self.coder.parameters())
        self.none_dead_F = torch.zeros(shape.features, dtype=torch.bool, device=DEVICE)

    def train(self, acts_BMD: Tensor) -> float:
        terms = self.objective(acts_BMD, 1.0, self.none_dead_F)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        grads = [p.grad for p in self.coder.parameters() if p.grad is not None]
        self.optimiser.step(LR, divisor=torch.nn.utils.get_total_norm(grads).clamp(min=1.0))
        self.objective.encoder.refresh()
        return terms.value

    def reconstruct(self, acts_BMD: Tensor) -> Tensor:
        return decoded(self.coder, batch_topk(self.coder, acts_BMD)).view_as(acts_BMD)


class Dense(Contender):
    """The same model, data and optimiser by dense float32 products, autograd and `torch.optim`."""

    def __init__(self, shape: Shape) -> None:
        self.coder = new_crosscoder(shape)
        self.optimiser = torch.optim.Adam(self.coder.parameters(), lr=LR, fused=True)

    def train(self, acts_BMD: Tensor) -> float:
        self.optimiser.zero_grad()
        error_BI = decoded(self.coder, batch_topk(self.coder, acts_BMD)) - acts_BMD.flatten(1)
        loss = error_BI.square().sum() / len(acts_BMD)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.coder.parameters(), 1.0)
        self.optimiser.step()
        return float(loss.detach())

    def reconstruct(self, acts_BMD: Tensor) -> Tensor:
        return decoded(self.coder, batch_topk(self.coder, acts_BMD)).view_as(acts_BMD)


class DenseBfloat16(Dense):
    """The same with products in bfloat16, by autocast: what is usual on a GPU."""

    def train(self, acts_BMD: Tensor) -> float:
        with torch.autocast(DEVICE, torch.bfloat16):
            return super().train(acts_BMD)


def new_crosscoder(shape: Shape):  # type: ignore[no-untyped-def]
    """The model that these begin with."""
    from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig

    models = ["base", "sft", "rl"][: shape.models]
    found = Crosscoder(CrosscoderConfig(models, shape.d, shape.features, "batch_topk", shape.k, layer=1))
    found.initialise(seed=0)
    return found.to(DEVICE)


def batch_topk(coder, acts_BMD: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Dense codes [B, F], the batch's B * k highest scores."""
    codes_BF = torch.relu(acts_BMD.flatten(1) @ coder.W_enc.flatten(1).T + coder.b_enc)
    scores_BF = codes_BF.detach() * coder.selection_weights().detach()
    limit = scores_BF.flatten().topk(len(acts_BMD) * coder.config.k, sorted=True).values[-1]
    return codes_BF * (scores_BF >= limit)


def decoded(coder, codes_BF: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """x^, [B, M * d]."""
    return codes_BF @ coder.W_dec.flatten(1) + coder.b_dec.flatten()


class SaeLens(Contender):
    """sae-lens' `SAETrainer.step` of its BatchTopK SAE on the models' activations end to end, settings as they come."""

    def __init__(self, shape: Shape) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        chosen = BatchTopKTrainingSAEConfig(d_in=shape.inputs, d_sae=shape.features, k=shape.k, device=DEVICE)
        self.sae = BatchTopKTrainingSAE(chosen)
        config = SAETrainerConfig(
            total_training_samples=10**9, train_batch_size_samples=shape.batch, lr=LR, lr_end=LR, device=DEVICE
        )
        self.trainer = SAETrainer(config, self.sae, data_provider=iter([]))

    def train(self, acts_BMD: Tensor) -> float:
        found = self.trainer.step(acts_BMD.flatten(1))
        self.trainer.n_training_steps += 1
        return float(found.loss.detach())

    def reconstruct(self, acts_BMD: Tensor) -> Tensor:
        return self.sae.decode(self.sae.encode(acts_BMD.flatten(1))).view_as(acts_BMD)


class Sparsify(Contender):
    """eai-sparsify's SparseCoder on the same, and what its Trainer does with it in a step (loss `fvu`, `signum`)."""

    def __init__(self, shape: Shape) -> None:
        from schedulefree import ScheduleFreeWrapper
        from sparsify import SparseCoder, SparseCoderConfig
        from sparsify.sign_sgd import SignSGD

        self.sae = SparseCoder(shape.inputs, SparseCoderConfig(num_latents=shape.features, k=shape.k), device=DEVICE)
        rate = 5e-3 / (shape.features / 2**14) ** 0.5  # the Trainer's own
        self.optimiser = ScheduleFreeWrapper(SignSGD(self.sae.parameters(), lr=rate), momentum=0.95)
        self.optimiser.train()

    def train(self, acts_BMD: Tensor) -> float:
        x_BI = acts_BMD.flatten(1)
        self.sae.set_decoder_norm_to_unit_norm()
        found = self.sae(x=x_BI, y=x_BI, total_variance=(x_BI - x_BI.mean(0)).pow(2).sum())
        found.fvu.backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(found.fvu.detach())

    def reconstruct(self, acts_BMD: Tensor) -> Tensor:
        self.optimiser.eval()
        found = self.sae(x=acts_BMD.flatten(1)).sae_out
        self.optimiser.train()
        return found.view_as(acts_BMD)


CONTENDERS: dict[str, type[Contender]] = {
    "dense": Dense, "dense bfloat16": DenseBfloat16, "sae-lens": SaeLens, "sparsify": Sparsify, "rlgen": Ours,
}  # fmt: skip


def main() -> None:
    """Answer lines until there are none."""
    said, sys.stdout = sys.stdout, sys.stderr  # libraries print
    torch.manual_seed(0)
    shape = Shape(*map(int, sys.argv[2:]))
    contender, batches = CONTENDERS[sys.argv[1]](shape), activations(shape)
    for line in sys.stdin:
        word, *numbers = line.split()
        if word == "train":
            start, steps = map(int, numbers)
            before = time.perf_counter()
            losses = [contender.train(batches[step % shape.batches]) for step in range(start, start + steps)]
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            answer = {"seconds": time.perf_counter() - before, "loss": sum(losses) / steps}
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if DEVICE == "cuda":
                memory = torch.cuda.max_memory_allocated()
            answer = {"fve": explained(contender, batches[shape.batches :]), "memory": memory}
        print(json.dumps(answer), file=said, flush=True)


@torch.no_grad()
def explained(contender: Contender, batches: list[Tensor]) -> float:
    """1 - sum |x - x^|^2 / sum |x - mean|^2."""
    acts_TMD = torch.cat(batches)
    error = sum(float((contender.reconstruct(batch) - batch).square().sum()) for batch in batches)
    return 1 - error / float((acts_TMD - acts_TMD.mean(dim=0)).square().sum())


if __name__ == "__main__":
    main()
