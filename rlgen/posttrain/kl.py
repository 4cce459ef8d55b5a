"""How far an arm has gone from its base while it is trained: the KL divergence on the step's own sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState
from transformers.integrations import deepspeed as integration

from rlgen.models import load_model
from rlgen.posttrain.memory import TOKENS
from rlgen.study.sections import TrainedArm

KL = "kl_to_base"
"""In the curves: KL(arm || base) over the whole vocabulary in nats a token, mean over tokens that were learnt from."""
_SEQUENCES = 4
"""Of a process' last forward pass, so many are looked at, and `TOKENS` of each one's first tokens;"""
_AT_ONCE = 128
"""so many positions' logits are in float32 at the same time."""


class Remembering:
    """Mixed into a trainer: keeps the batch of the last forward pass."""

    last_batch: dict[str, Any]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **more: Any) -> Any:
        """The trainer's own loss."""
        self.last_batch = inputs
        return super().compute_loss(model, inputs, *given, **more)  # type: ignore[misc]


class KlToBase(TrainerCallback):
    """Measures the divergence every so many steps. All processes take part."""

    def __init__(self, trainer: Any, arm: TrainedArm, base: Path) -> None:
        assert arm.kl_every is not None
        self._trainer, self._every, self._base_path, self._lora = trainer, arm.kl_every, base, arm.lora is not None
        self._base: PreTrainedModel | None = None

    def on_step_end(self, _args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        if state.global_step % self._every:
            return
        trainer = self._trainer
        ids_BT, mask_BT, learnt_BT = (part[:_SEQUENCES, :] for part in _sequences(trainer.last_batch))
        sums = torch.zeros(2, dtype=torch.float64)
        for ids_T, mask_T, learnt_T in zip(ids_BT, mask_BT, learnt_BT, strict=True):
            shown = mask_T.bool() & (learnt_T.cumsum(0) <= TOKENS)
            count = int(learnt_T[shown].sum())  # what is learnt from comes last, in SFT and in GRPO
            row = {"input_ids": ids_T[shown][None], "attention_mask": mask_T[shown][None], "use_cache": False}
            row["logits_to_keep"] = count + 1
            own_NV = self._logits(trainer.model_wrapped, row)
            with self._reference() as base:
                base_NV = self._logits(base, row)
            sums += torch.tensor([divergence(own_NV, base_NV), count])
        total, tokens = trainer.accelerator.reduce(sums.to(trainer.accelerator.device)).tolist()
        trainer._metrics["train"][KL].append(total / max(tokens, 1))

    @torch.no_grad()
    def _logits(self, model: Any, row: dict[str, Any]) -> Tensor:
        """What is predicted for the tokens learnt from, [N, vocabulary]."""
        with self._trainer.compute_loss_context_manager():
            logits_NV: Tensor = model(**row).logits[0, :-1]
        return logits_NV

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        """The base: the trained model without its adapters, or a copy of its own, whole on every process."""
        if self._lora:
            with self._trainer.accelerator.unwrap_model(self._trainer.model).disable_adapter():
                yield self._trainer.model_wrapped
            return
        if self._base is None:
            with _undivided():
                precision = "bfloat16" if self._trainer.args.bf16 else "float32"
                self._base = load_model(self._base_path, dtype=precision).requires_grad_(False)
        yield self._base


@torch.no_grad()
def divergence(own_NV: Tensor, base_NV: Tensor) -> float:
    """Sum over positions of KL(own || base) of two models' logits [N, vocabulary], a few positions at a time."""
    total = 0.0
    for start in range(0, len(own_NV), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        log_own, log_base = (torch.log_softmax(logits[here].float(), dim=-1) for logits in (own_NV, base_NV))
        total += float((log_own.exp() * (log_own - log_base)).sum(-1, dtype=torch.float64).sum())
    return total


@contextlib.contextmanager
def _undivided() -> Iterator[None]:
    """While the block lasts, models are loaded whole, although training divides its own (ZeRO 3)."""
    reference = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = reference


def _sequences(batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and the tokens that are learnt from, [batch, position], of SFT's or GRPO's batch."""
    if "completion_ids" in batch:
        ids_BT = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask_BT = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        learnt_BT = torch.cat([torch.zeros_like(batch["prompt_mask"]), batch["completion_mask"]], dim=1).bool()
        return ids_BT, mask_BT, learnt_BT
    return batch["input_ids"], batch["attention_mask"], batch["labels"] != -100


def measure_kl(trainer: Trainer, arm: TrainedArm, base: Path) -> None:
    """Have a trainer measure the divergence as often as its arm says."""
    if arm.kl_every is not None:
        trainer.add_callback(KlToBase(trainer, arm, base))
