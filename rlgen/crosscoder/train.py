"""Fits a crosscoder to joined activation stores; killed at any moment, it goes on to the same bits."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from rlgen.activations.loader import Loader
from rlgen.activations.store import Joined, group_parts, join
from rlgen.crosscoder.adam import Adam
from rlgen.crosscoder.explained import Explained
from rlgen.crosscoder.losses import Objective, Terms
from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig
from rlgen.errors import StudyError
from rlgen.stage import Workspace, atomic_path, derive_seed, stage
from rlgen.study.stages import FitSettings

TRAINING = "training.parquet"
STATE = "state.pt"
_LOG_ROWS = 200
"""About so many rows in the training log."""
_DEAD_TOKENS = 10_000_000
"""A feature that has not fired for so many tokens is dead, or for a tenth of all tokens if that is fewer."""
_THRESHOLD_STEPS = 1000
"""The running threshold is averaged over about so many steps, or a twentieth of all steps if that is fewer."""
_SAVE_SECONDS = 5.0
_SAVE_SHARE = 0.03
"""The training state is saved every so many seconds, and so that it takes at most this share of the time."""


def fit(settings: FitSettings, *, stores: list[Path], out: Path) -> None:
    """Fit a crosscoder to the stores (every part of every model, in any order).

    Writes config.json, model.safetensors and training.parquet. Raises StudyError if the stores cannot be
    joined or the loss is no longer finite.
    """
    parts = group_parts(stores, settings.crosscoder.models)
    inputs = {f"{path.parent.name}/{path.name}": path for path in stores}
    with stage("fit", settings, inputs, out) as work:
        trainer = Trainer(settings, join(parts))
        saved = work.scratch / STATE
        if saved.is_file():
            trainer.load_state_dict(torch.load(saved, weights_only=True, map_location=trainer.device))
        train(trainer, work, name=out.name)
        trainer.crosscoder.save_pretrained(work.folder)
        pq.write_table(pa.Table.from_pylist(trainer.log), work.folder / TRAINING)


def train(trainer: Trainer, work: Workspace, name: str) -> None:
    """All steps that are left, with the state saved now and then. `name` is the crosscoder's."""
    size, steps = trainer.loader.batch_size, len(trainer.loader)
    progress = work.progress(steps * size, "tokens", done=trainer.loader.step * size)
    saved, pause = time.monotonic(), _SAVE_SECONDS
    for acts_BMD in trainer.loader:
        terms = trainer.step(acts_BMD)
        if not math.isfinite(terms.value):
            raise StudyError(
                f"crosscoders.{name}.lr: the loss is {terms.value} at step {trainer.loader.step} of {steps}; "
                "lower it. The last good state is kept until the settings change"
            )
        progress.add(size, note=f"loss {terms.value:.2f}, L0 {terms.l0:.1f}")
        if time.monotonic() - saved > pause and trainer.loader.step < steps:
            start = time.monotonic()
            with atomic_path(work.scratch / STATE) as path:
                torch.save(trainer.state_dict(), path)
            saved = time.monotonic()
            pause = max(_SAVE_SECONDS, (saved - start) / _SAVE_SHARE)


class Trainer:
    """A crosscoder under way: weights, optimiser, position in the data, counters, log."""

    def __init__(self, settings: FitSettings, joined: Joined) -> None:
        chosen = self.settings = settings.crosscoder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.loader = Loader(
            joined,
            settings.layer,
            chosen.batch_size,
            derive_seed(settings.seed, "fit"),
            epochs=chosen.epochs,
            outlier_norm=settings.outlier_norm,
            device=self.device,
        )
        config = CrosscoderConfig(
            models=list(chosen.models),
            d=joined.d,
            features=chosen.features,
            sparsity=chosen.sparsity,
            k=chosen.k,
            layer=settings.layer,
        )
        self.crosscoder = Crosscoder(config)
        self.crosscoder.initialise(derive_seed(settings.seed, "fit", "initialise"))
        statistics = self.loader.statistics(config.reference)
        self.crosscoder.mean.copy_(statistics.mean_MD)
        self.crosscoder.scale.copy_(statistics.scale_M)
        self.crosscoder.limit_M.copy_(settings.outlier_norm * torch.tensor(self.loader.medians))
        self.crosscoder.to(self.device)
        self.objective = Objective(chosen, self.crosscoder, statistics.variance_M, statistics.delta_variance_M)
        self.optimiser = Adam(self.crosscoder.parameters())
        self.silent_F = torch.zeros(chosen.features, dtype=torch.int64, device=self.device)
        """Tokens since each feature last fired."""
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
        terms: Terms = self.objective(normalised_BMD, warm, dead_F)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.crosscoder.parameters(), 1.0)
        self.optimiser.step(rate)
        self._count(terms, len(acts_BMD))
        if done % self._log_every == 0 or done == steps:
            self.log.append(self._row(terms, normalised_BMD, rate))
        return terms

    def state_dict(self) -> dict[str, Any]:
        """All that it takes to go on to the same bits."""
        return {
            "crosscoder": self.crosscoder.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "loader": self.loader.state_dict(),
            "silent": self.silent_F,
            "log": self.log,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken, with the same settings and stores."""
        self.crosscoder.load_state_dict(state["crosscoder"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.loader.load_state_dict(state["loader"])
        self.silent_F, self.log = state["silent"], state["log"]

    @torch.no_grad()
    def _count(self, terms: Terms, tokens: int) -> None:
        self.silent_F += tokens
        self.silent_F[terms.fired_F] = 0
        if terms.limit is not None:
            first = self.loader.step == 1
            share = 1.0 if first else 1 / max(1.0, min(_THRESHOLD_STEPS, len(self.loader) / 20))
            self.crosscoder.threshold.lerp_(terms.limit, share)

    def _row(self, terms: Terms, normalised_BMD: Tensor, rate: float) -> dict[str, float]:
        explained = Explained(self.crosscoder)
        explained.add(normalised_BMD, terms.error_BMD)
        row = {
            "step": self.loader.step,
            "tokens": min(self.loader.step * self.settings.batch_size, self.loader.total_tokens),
            "loss": terms.value,
            "l0": terms.l0,
            "dead": float((self.silent_F >= self._dead_after).float().mean()),
            "threshold": float(self.crosscoder.threshold),
            "lr": rate,
            "sparsity": 0.0 if terms.sparsity is None else float(terms.sparsity),
            "auxiliary": 0.0 if terms.auxiliary is None else float(terms.auxiliary),
        }
        row |= {f"fve_{slot}": value for slot, value in explained.fve().items()}
        return row | {f"delta_fve_{slot}": value for slot, value in explained.delta_fve().items()}


def schedule(step: int, steps: int, warmup: float, decay: float) -> float:
    """Share of the peak learning rate at `step` (from 0): a linear rise over the first, a linear fall over the last."""
    rise = (step + 1) / max(1.0, warmup * steps)
    fall = (steps - step) / max(1.0, decay * steps)
    return min(1.0, rise, fall)
