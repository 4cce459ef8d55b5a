"""What SFT, GRPO and pretraining share: a Hugging Face Trainer that resumes exactly and publishes its checkpoints."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlgen.errors import StudyError
from rlgen.models import save_model
from rlgen.stage import Workspace, atomic_path
from rlgen.study.sections import GrpoArm, SftArm

CURVES = "curves.parquet"
_COMPLETE = "complete"
"""In a training state's folder: it was written to its end."""
_SAVE_EVERY = 20.0
"""Seconds between training states; at most so much work is lost."""
_NOT_OF_THE_RUN = ("num_tokens", "step_time", "runtime", "per_second", "train_loss", "total_flos", "flops")
"""Logged values that depend on the clock, or on where a run was resumed."""


def common_arguments(work: Workspace, seed: int, steps: int) -> dict[str, Any]:
    """Training arguments that are the same for every method."""
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(work.scratch / "trainer"),
        "max_steps": steps,
        "seed": seed,
        "logging_steps": 1,
        "save_strategy": "no",  # `_Checkpoints` says when
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not gpu,
        "bf16": gpu,
        "gradient_checkpointing": gpu,
        "dataloader_num_workers": 0,
    }


def rate_arguments(arm: SftArm | GrpoArm, steps: int) -> dict[str, Any]:
    """Training arguments of an arm's learning rate."""
    constant = arm.schedule == "constant"  # transformers' own `constant` has no warm-up
    return {
        "learning_rate": arm.lr,
        "lr_scheduler_type": "constant_with_warmup" if constant else arm.schedule,
        "warmup_steps": round(arm.warmup * steps),
    }


def steps_of(problems: int, epochs: float, problems_per_step: float) -> int:
    """Optimiser steps in `epochs` passes over the problems; at least one."""
    return max(1, round(epochs * problems / problems_per_step))


def train(
    work: Workspace,
    make: Callable[[], Trainer],
    steps: int,
    checkpoints: int,
    tokenizer: PreTrainedTokenizerBase,
    section: str,
) -> None:
    """Train to the end, from the last complete state if there is one, and write the model, its earlier checkpoints and
    its curves to the workspace. `section` is where in the study file the model's settings stand, for messages.

    Checkpoint i of n is taken after step ceil(steps * i / n); the last is the finished model and is not stored twice.
    Raises StudyError if there are fewer steps than checkpoints, or the loss is not finite.
    """
    if checkpoints > steps:
        raise StudyError(
            f"{section}.checkpoints: {checkpoints} cannot be taken in {steps} steps; ask for fewer, or train longer"
        )
    planned = {math.ceil(steps * index / checkpoints): index for index in range(1, checkpoints)}
    trainer = make()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Checkpoints(work, planned, steps, tokenizer, section))
    trainer.train(resume_from_checkpoint=_last_state(Path(str(trainer.args.output_dir))))
    model = trainer.accelerator.unwrap_model(trainer.model)
    save_model(model, tokenizer, work.folder)
    _curves(trainer.state.log_history).to_parquet(work.folder / CURVES, index=False)


def _last_state(output: Path) -> str | None:
    states = [path.parent for path in output.glob(f"checkpoint-*/{_COMPLETE}")]
    return str(max(states, key=_step)) if states else None


def _step(state: Path) -> int:
    return int(state.name.removeprefix("checkpoint-"))


def _curves(history: list[dict[str, Any]]) -> pd.DataFrame:
    """What was logged, one row a step. Columns are sorted: their order in the log depends on where a run resumed."""
    rows = [{k: v for k, v in row.items() if not any(n in k for n in _NOT_OF_THE_RUN)} for row in history]
    frame = pd.DataFrame([row for row in rows if len(row) > 2]).sort_values("step").reset_index(drop=True)
    return frame[sorted(frame.columns)]


class _Checkpoints(TrainerCallback):
    """Saves training states by the clock and models by plan, each whole or not at all; tells progress; stops on NaN."""

    def __init__(
        self, work: Workspace, planned: dict[int, int], steps: int, tokenizer: PreTrainedTokenizerBase, section: str
    ) -> None:
        self._work, self._planned, self._tokenizer, self._section = work, planned, tokenizer, section
        self._progress = work.progress(steps, "steps")
        self._saved = time.monotonic()

    def on_train_begin(self, _args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        self._progress = self._work.progress(state.max_steps, "steps", done=state.global_step)

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._progress.to(state.global_step)
        due = time.monotonic() - self._saved > _SAVE_EVERY
        control.should_save = state.global_step < state.max_steps and (due or state.global_step in self._planned)

    def on_log(
        self, _args: Any, state: TrainerState, _control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        for key in ("loss", "grad_norm"):
            value = float((logs or {}).get(key, 0.0))
            if not math.isfinite(value):
                raise StudyError(
                    f"{self._work.name}: {key} is {value} at step {state.global_step}; the last good state is kept in "
                    f"{self._work.scratch}; lower the learning rate ({self._section}.lr)"
                )

    def on_save(self, args: TrainingArguments, state: TrainerState, _control: Any, **given: Any) -> None:
        output = Path(str(args.output_dir))
        here = output / f"checkpoint-{state.global_step}"
        if state.global_step in self._planned:
            self._keep(given["model"], self._planned[state.global_step])
        (here / _COMPLETE).touch()
        for older in output.glob("checkpoint-*"):
            if older != here:
                shutil.rmtree(older)
        self._saved = time.monotonic()

    def _keep(self, model: PreTrainedModel, index: int) -> None:
        place = self._work.folder / "checkpoints" / str(index)
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            shutil.rmtree(place)
        with atomic_path(place) as temporary:
            if temporary.exists():
                shutil.rmtree(temporary)
            save_model(model, self._tokenizer, temporary)
            os.sync()
