"""A crosscoder under way: one optimiser step after the other, on one process or as one of many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlgen.activations.joined import Joined
from rlgen.activations.loader import Loader, Statistics
from rlgen.crosscoder.adam import Adam
from rlgen.crosscoder.explained import Explained
from rlgen.crosscoder.losses import Objective, Terms
from rlgen.crosscoder.mesh import ALONE, Mesh
from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig
from rlgen.stage import derive_seed
from rlgen.study.stages import FitSettings

_LOG_ROWS = 200
"""About so many rows in the training log."""
_DEAD_TOKENS = 10_000_000
"""A feature that has not fired for so many tokens is dead, or for a tenth of all tokens if that is fewer."""
_THRESHOLD_STEPS = 1000
"""The running threshold is averaged over about so many steps, or a twentieth of all steps if that is fewer."""
_CLIP = 1.0
"""Largest norm of a gradient."""


class Trainer:
    """Weights, optimiser, position in the data, counters and log; of a mesh of processes, this one's share of them."""

    def __init__(self, settings: FitSettings, joined: Joined, mesh: Mesh = ALONE) -> None:
        chosen = self.settings = settings.crosscoder
        self.mesh = mesh
        seed = [settings.seed, "fit", *([chosen.seed] if chosen.seed else [])]
        gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
        self.loader = Loader(
            joined,
            settings.layer,
            chosen.batch_size,
            derive_seed(*seed),
            epochs=chosen.epochs,
            outlier_norm=settings.outlier_norm,
            rank=mesh.data.rank,
            world=mesh.data.size,
            device=self.device,
            tokens=chosen.tokens,
        )
        self.config = CrosscoderConfig(
            models=list(chosen.models),
            d=joined.d,
            features=chosen.features,
            sparsity=chosen.sparsity,
            k=chosen.k,
            layer=settings.layer,
            dedicated=dict(chosen.dedicated),
        )
        self.share = mesh.share(chosen.features)
        whole = Crosscoder(self.config)
        whole.initialise(derive_seed(*seed, "initialise"))
        statistics = self.loader.statistics(self.config.reference)
        whole.mean.copy_(statistics.mean_MD)
        whole.scale.copy_(statistics.scale_M)
        whole.limit_M.copy_(settings.outlier_norm * torch.tensor(self.loader.medians))
        self.crosscoder = whole.part(range(self.share.start, self.share.stop)).train().to(self.device)
        self.objective = Objective(chosen, self.crosscoder, statistics.variance_M, statistics.delta_variance_M, mesh)
        self.optimiser = Adam(self.crosscoder.parameters())
        self.silent_F = torch.zeros(self.crosscoder.config.features, dtype=torch.int64, device=self.device)
        """Tokens since each feature last fired."""
        self.nothing = statistics_loss(statistics, whole.scale)
        """About the loss of no reconstruction at all."""
        self._dead_after = min(_DEAD_TOKENS, len(self.loader) * chosen.batch_size // 10)
        self._log_every = max(1, len(self.loader) // _LOG_ROWS)
        self.log: list[dict[str, float]] = []
        """Rows of the training log."""

    def step(self, acts_BMD: Tensor) -> Terms:
        """One optimiser step on raw activations."""
        steps, done = len(self.loader), self.loader.step
        rate = self.settings.lr * schedule(done - 1, steps, self.settings.warmup, self.settings.decay)
        warm = min(1.0, done / max(1.0, self.settings.warmup * steps))
        dead_F = self.silent_F >= self._dead_after
        normalised_BMD = self.crosscoder.normalise(acts_BMD)
        terms = self.objective(normalised_BMD, warm, dead_F)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step(rate, divisor=self._finish_gradients())
        self.objective.encoder.refresh()
        self._count(terms)
        if done % self._log_every == 0 or done == steps:
            self.log.append(self._row(terms, normalised_BMD, rate))
        return terms

    def whole(self) -> Crosscoder:
        """The crosscoder with everyone's features, on the CPU."""
        found = Crosscoder(self.config)
        own = self.crosscoder.state_dict()
        by_feature = self.crosscoder.by_feature
        found.load_state_dict({n: self.mesh.features.gather(t) if n in by_feature else t for n, t in own.items()})
        return found

    def state_dict(self) -> dict[str, Any]:
        """All that it takes to go on to the same bits."""
        return {
            "crosscoder": self.crosscoder.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "objective": self.objective.state_dict(),
            "loader": self.loader.state_dict(),
            "silent": self.silent_F,
            "log": self.log,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken, with the same settings, stores and mesh."""
        self.crosscoder.load_state_dict(state["crosscoder"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.objective.load_state_dict(state["objective"])
        self.loader.load_state_dict(state["loader"])
        self.silent_F, self.log = state["silent"], state["log"]

    @torch.no_grad()
    def _finish_gradients(self) -> Tensor:
        """Everyone's gradients, 0 where weights must stay 0; returns what they must be divided by to be clipped."""
        coder, mesh = self.crosscoder, self.mesh
        grads = {name: p.grad for name, p in coder.named_parameters() if p.grad is not None}
        for features, slot in self.config.foreign:
            here = _inside(features, self.share)
            grads["W_enc"][here, slot] = 0
            grads["W_dec"][here, slot] = 0
        for grad in grads.values():
            mesh.data.sum_(grad)
        own = {name: torch.linalg.vector_norm(grad).square() for name, grad in grads.items()}
        common = own.pop("b_dec")
        norm: Tensor = (mesh.features.sum(torch.stack(list(own.values())).sum()) + common).sqrt()
        return (norm / _CLIP).clamp(min=1.0)

    @torch.no_grad()
    def _count(self, terms: Terms) -> None:
        self.silent_F += terms.tokens
        self.silent_F[terms.fired_F] = 0
        if self.settings.sparsity == "batch_topk" and terms.limit is not None:
            first = self.loader.step == 1
            share = 1.0 if first else 1 / max(1.0, min(_THRESHOLD_STEPS, len(self.loader) / 20))
            self.crosscoder.threshold.lerp_(terms.limit, share)

    def _row(self, terms: Terms, normalised_BMD: Tensor, rate: float) -> dict[str, float]:
        explained = Explained(self.crosscoder)
        explained.add(normalised_BMD, terms.error_BMD)
        explained.sum_over(self.mesh.data)
        dead = int(self.mesh.features.sum((self.silent_F >= self._dead_after).sum()))
        row = {
            "step": self.loader.step,
            "tokens": min(self.loader.step * self.settings.batch_size, self.loader.total_tokens),
            "loss": terms.value,
            "l0": terms.l0,
            "dead": dead / self.config.features,
            "threshold": float(self.crosscoder.threshold),
            "lr": rate,
            "sparsity": terms.penalty,
            "auxiliary": terms.auxiliary,
            "dense": float(terms.dense),
        }
        row |= {f"fve_{slot}": value for slot, value in explained.fve().items()}
        return row | {f"delta_fve_{slot}": value for slot, value in explained.delta_fve().items()}


def statistics_loss(statistics: Statistics, scale_M: Tensor) -> float:
    """sum_m E |x_m|^2 in the crosscoder's own scale."""
    return float((statistics.variance_M * scale_M.double().square()).sum())


def schedule(step: int, steps: int, warmup: float, decay: float) -> float:
    """Share of the peak learning rate at `step` (from 0): a linear rise over the first, a linear fall over the last."""
    rise = (step + 1) / max(1.0, warmup * steps)
    fall = (steps - step) / max(1.0, decay * steps)
    return min(1.0, rise, fall)


def _inside(features: slice, share: slice) -> slice:
    """Features of the whole, as they are numbered in a share of it."""
    return slice(max(features.start - share.start, 0), max(min(features.stop, share.stop) - share.start, 0))
