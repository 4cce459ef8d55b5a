"""One contender of `crosscoder.py step`, in an environment of its own: `python contenders.py NAME`, driven by lines.

`train START STEPS` answers {"seconds": ..., "loss": ...}, the mean over these steps; `explain` {"fve": ..., "memory":
...}, the share of held-out batches' variance that is explained and the process' highest memory in bytes. Every
contender sees the same batches and takes its own training step on them.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

MODELS, D, FEATURES, K, BATCH = 3, 256, 8192, 32, 1024
LR, BATCHES, HELD_OUT, TRUE_FEATURES = 1e-3, 32, 2, 4096


def activations() -> list[Tensor]:
    """Batches [B, M, d], the last ones held out, of a world with known features of heavy-tailed firing rates."""
    random = torch.Generator().manual_seed(0)
    rows_FI = nn.functional.normalize(torch.randn(TRUE_FEATURES, MODELS * D, generator=random), dim=-1)
    rate_F = 1 / torch.arange(1, TRUE_FEATURES + 1)
    rate_F *= 24 / rate_F.sum()
    found = []
    for _ in range(BATCHES + HELD_OUT):
        active_BF = torch.rand(BATCH, TRUE_FEATURES, generator=random) < rate_F
        acts_BI = (active_BF * torch.rand(BATCH, TRUE_FEATURES, generator=random)) @ rows_FI
        acts_BI += 0.02 * torch.randn(acts_BI.shape, generator=random)
        found.append((acts_BI * (MODELS * D) ** 0.5 / acts_BI.norm(dim=-1).mean()).view(BATCH, MODELS, D))
    return found


class Contender(ABC):
    """Something that trains on batches [B, M, d]."""

    @abstractmethod
    def train(self, acts_BMD: Tensor) -> float:
        """One step; its loss, as the contender defines it."""

    @abstractmethod
    def reconstruct(self, acts_BMD: Tensor) -> Tensor:
        """x^, in the shape of the batch."""


class Ours(Contender):
    """rlgen's engine."""

    def __init__(self) -> None:
        from rlgen.crosscoder.adam import Adam
        from rlgen.crosscoder.losses import Objective
        from rlgen.study.sections import Crosscoder as Settings

        self.coder = new_crosscoder()
        settings = Settings(models=self.coder.config.models, features=FEATURES, k=K, aux_weight=0.0)
        self.objective = Objective(settings, self.coder, torch.ones(MODELS), torch.ones(MODELS))
        self.optimiser = Adam(self.coder.parameters())
        self.none_dead_F = torch.zeros(FEATURES, dtype=torch.bool)

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

    def __init__(self) -> None:
        self.coder = new_crosscoder()
        self.optimiser = torch.optim.Adam(self.coder.parameters(), lr=LR, fused=True)

    def train(self, acts_BMD: Tensor) -> float:
        self.optimiser.zero_grad()
        error_BI = decoded(self.coder, batch_topk(self.coder, acts_BMD)) - acts_BMD.flatten(1)
        loss = error_BI.square().sum() / BATCH
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.coder.parameters(), 1.0)
        self.optimiser.step()
        return float(loss.detach())

    def reconstruct(self, acts_BMD: Tensor) -> Tensor:
        return decoded(self.coder, batch_topk(self.coder, acts_BMD)).view_as(acts_BMD)


def new_crosscoder():  # type: ignore[no-untyped-def]
    """The model that both of these begin with."""
    from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig

    found = Crosscoder(CrosscoderConfig(["base", "sft", "rl"], D, FEATURES, "batch_topk", K, layer=1))
    found.initialise(seed=0)
    return found


def batch_topk(coder, acts_BMD: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Dense codes [B, F], the batch's B * k highest scores."""
    codes_BF = torch.relu(acts_BMD.flatten(1) @ coder.W_enc.flatten(1).T + coder.b_enc)
    scores_BF = codes_BF.detach() * coder.selection_weights().detach()
    limit = scores_BF.flatten().topk(BATCH * K, sorted=True).values[-1]
    return codes_BF * (scores_BF >= limit)


def decoded(coder, codes_BF: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """x^, [B, M * d]."""
    return codes_BF @ coder.W_dec.flatten(1) + coder.b_dec.flatten()


class SaeLens(Contender):
    """sae-lens' `SAETrainer.step` of its BatchTopK SAE on the models' activations end to end, settings as they come."""

    def __init__(self) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        self.sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=MODELS * D, d_sae=FEATURES, k=K))
        config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=BATCH, lr=LR, lr_end=LR)
        self.trainer = SAETrainer(config, self.sae, data_provider=iter([]))

    def train(self, acts_BMD: Tensor) -> float:
        found = self.trainer.step(acts_BMD.flatten(1))
        self.trainer.n_training_steps += 1
        return float(found.loss.detach())

    def reconstruct(self, acts_BMD: Tensor) -> Tensor:
        return self.sae.decode(self.sae.encode(acts_BMD.flatten(1))).view_as(acts_BMD)


class Sparsify(Contender):
    """eai-sparsify's SparseCoder on the same, and what its Trainer does with it in a step (loss `fvu`, `signum`)."""

    def __init__(self) -> None:
        from schedulefree import ScheduleFreeWrapper
        from sparsify import SparseCoder, SparseCoderConfig
        from sparsify.sign_sgd import SignSGD

        self.sae = SparseCoder(MODELS * D, SparseCoderConfig(num_latents=FEATURES, k=K))
        rate = 5e-3 / (FEATURES / 2**14) ** 0.5  # the Trainer's own
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


CONTENDERS: dict[str, type[Contender]] = {"dense": Dense, "sae-lens": SaeLens, "sparsify": Sparsify, "rlgen": Ours}


def main() -> None:
    """Answer lines until there are none."""
    said, sys.stdout = sys.stdout, sys.stderr  # libraries print
    torch.manual_seed(0)
    contender, batches = CONTENDERS[sys.argv[1]](), activations()
    for line in sys.stdin:
        word, *numbers = line.split()
        if word == "train":
            start, steps = map(int, numbers)
            before = time.perf_counter()
            losses = [contender.train(batches[step % BATCHES]) for step in range(start, start + steps)]
            answer = {"seconds": time.perf_counter() - before, "loss": sum(losses) / steps}
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            answer = {"fve": explained(contender, batches[BATCHES:]), "memory": memory}
        print(json.dumps(answer), file=said, flush=True)


@torch.no_grad()
def explained(contender: Contender, batches: list[Tensor]) -> float:
    """1 - sum |x - x^|^2 / sum |x - mean|^2."""
    acts_TMD = torch.cat(batches)
    error = sum(float((contender.reconstruct(batch) - batch).square().sum()) for batch in batches)
    return 1 - error / float((acts_TMD - acts_TMD.mean(dim=0)).square().sum())


if __name__ == "__main__":
    main()
