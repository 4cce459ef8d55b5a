"""What SFT, GRPO and pretraining share: a Hugging Face Trainer that resumes exactly and publishes its checkpoints."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlgen.errors import StudyError
from rlgen.launch import Saving, agree, rank, wait, world_size
from rlgen.models import save_model
from rlgen.posttrain.deepspeed import whole_state
from rlgen.posttrain.gradients import FIRST, learnt_nothing, zero_gradients
from rlgen.posttrain.lora import merged
from rlgen.stage import Workspace, write_json
from rlgen.study.sections import Lora

log = logging.getLogger("rlgen")

CURVES = "curves.parquet"
_COMPLETE = "complete"
"""In a training state's folder: it was written to its end."""
_SAVE_EVERY = 20.0
_SAVE_SHARE = 0.05
"""The training state is saved every so many seconds, and so that it takes at most this share of the time."""
_NOT_OF_THE_RUN = ("num_tokens", "step_time", "runtime", "per_second", "train_loss", "total_flos", "flops")
"""Logged values that depend on the clock, or on where a run was resumed."""
_OF_THE_LIST = "epoch"
"""Logged, but counted in passes over `in_order`'s list, which is all epochs."""


def common_arguments(work: Workspace, seed: int, steps: int) -> dict[str, Any]:
    """Training arguments that are the same for every method."""
    return {
        "output_dir": str(work.scratch / "trainer"),
        "max_steps": steps,
        "seed": seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # `_Checkpoints` stops on them
        "save_strategy": "no",  # `_Checkpoints` says when
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_num_workers": 0,
    }


def train(
    work: Workspace,
    make: Callable[[], Trainer],
    steps: int,
    checkpoints: int,
    tokenizer: PreTrainedTokenizerBase,
    section: str,
    lora: Lora | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Train to the end, from the last complete state if there is one, and write the model, its earlier checkpoints and
    its curves to the workspace. `section` is where in the study file the model's settings stand, for messages. Of
    several processes all must call it; the first writes. Weights are written in `dtype`, or as they are trained.

    Checkpoint i of n is taken after step ceil(steps * i / n); the last is the finished model and is not stored twice.
    The manifest says under `gradient` in how many steps the gradient was exactly zero. Raises StudyError if there are
    fewer steps than checkpoints, or the loss is not finite.
    """
    if checkpoints > steps:
        raise StudyError(
            f"{section}.checkpoints: {checkpoints} cannot be taken in {steps} steps; ask for fewer, or train longer"
        )
    planned = {math.ceil(steps * index / checkpoints): index for index in range(1, checkpoints)}
    trainer = make()
    trainer.remove_callback(PrinterCallback)
    saver = _Saver(trainer, tokenizer, lora, dtype)
    trainer.add_callback(_Checkpoints(work, planned, steps, saver, section))
    trainer.train(resume_from_checkpoint=_last_state(Path(str(trainer.args.output_dir)), section))
    saver.save(work.folder)
    if rank() == 0:
        work.facts["gradient"] = zero_gradients(_steps(trainer.state.log_history))
        _curves(trainer.state.log_history).to_parquet(work.folder / CURVES, index=False)


def _last_state(output: Path, section: str) -> str | None:
    """The newest whole training state, if there is one. Raises StudyError if it is of another number of processes."""
    states = [path.parent for path in output.glob(f"checkpoint-*/{_COMPLETE}")]
    last = agree(str(max(states, key=_step)) if states else None)
    if last is not None and (count := json.loads((Path(last) / _COMPLETE).read_text())["processes"]) != world_size():
        raise StudyError(
            f"{section}: the training state in {output} is of {count} processes, and these are {world_size()}; "
            f"go on with as many (one a GPU), or delete {output} to start anew"
        )
    return last


def _step(state: Path) -> int:
    return int(state.name.removeprefix("checkpoint-"))


def _curves(history: list[dict[str, Any]]) -> pd.DataFrame:
    """What was logged, one row a step. Columns are sorted: their order in the log depends on where a run resumed."""
    rows = [
        {k: v for k, v in row.items() if k != _OF_THE_LIST and not any(n in k for n in _NOT_OF_THE_RUN)}
        for row in history
    ]
    frame = pd.DataFrame(_steps([row for row in rows if len(row) > 1]))
    return frame[sorted(frame.columns)]


def _steps(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was logged in the order of the steps."""
    return sorted(history, key=lambda row: int(row["step"]))


@dataclass(frozen=True)
class _Saver:
    """Writes the trained model as it is now, whole and without adapters."""

    trainer: Trainer
    tokenizer: PreTrainedTokenizerBase
    lora: Lora | None
    dtype: torch.dtype | None

    def save(self, folder: Path) -> None:
        """All processes must call it; the first writes."""
        state = whole_state(self.trainer)
        if rank():
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        if self.lora:
            state = merged(state if state is not None else model.state_dict(), self.lora)
            model = model.get_base_model()
        if self.dtype not in (None, model.dtype) or state is not None:
            exact = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
            state = cast(state if state is not None else model.state_dict(), self.dtype or model.dtype, exact)
        save_model(model, self.tokenizer, folder, state)


def cast(state: Mapping[str, Tensor], dtype: torch.dtype, exact: Collection[str] = ()) -> dict[str, Tensor]:
    """Return weights in a precision. Tied ones stay tied.

    Args:
        state: Tensors by name.
        dtype: The precision to write floating-point numbers in; other tensors stay as they are.
        exact: Parts of names of tensors that the architecture keeps in float32, and that stay as they are.
    """
    found: dict[Any, Tensor] = {}
    for name, weight in state.items():
        stays = not weight.is_floating_point() or any(f".{part}." in f".{name}." for part in exact)
        place = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, stays) if weight.numel() else name
        if place not in found:
            found[place] = weight if stays else weight.to(dtype)
        found[name] = found[place]
    return {name: found[name] for name in state}


class _Checkpoints(TrainerCallback):
    """Saves training states by the clock and models by plan, each whole or not at all; tells progress; stops on NaN and
    warns if there is nothing to learn from."""

    def __init__(self, work: Workspace, planned: dict[int, int], steps: int, saver: _Saver, section: str) -> None:
        self._work, self._planned, self._saver, self._section = work, planned, saver, section
        self._progress = work.progress(steps, "steps")
        self._saving = Saving(_SAVE_EVERY, _SAVE_SHARE)

    def on_train_begin(self, _args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        self._progress = self._work.progress(state.max_steps, "steps", done=state.global_step)

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if rank() == 0:
            self._progress.to(state.global_step)
        due = self._saving.due() or state.global_step in self._planned
        control.should_save = due and state.global_step < state.max_steps
        self._saving.begin()

    def on_log(
        self, _args: Any, state: TrainerState, _control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        for key in ("loss", "grad_norm"):
            value = float((logs or {}).get(key, 0.0))
            if not math.isfinite(value):
                no_tokens = ", or see whether a batch has no token to learn from" if state.global_step == 1 else ""
                raise StudyError(
                    f"{self._work.name}: {key} is {value} at step {state.global_step}; the last good state is kept in "
                    f"{self._work.scratch}; lower the learning rate ({self._section}.lr){no_tokens}"
                )
        if rank() == 0 and "grad_norm" in (logs or {}) and state.global_step == min(FIRST, state.max_steps):
            found = zero_gradients(_steps(state.log_history))
            if found["nothing_at_first"]:
                log.warning("%s", learnt_nothing(self._section, {**found, "steps": state.max_steps}))

    def on_save(self, args: TrainingArguments, state: TrainerState, _control: Any, **_: Any) -> None:
        output = Path(str(args.output_dir))
        here = output / f"checkpoint-{state.global_step}"
        if state.global_step in self._planned:
            self._keep(self._planned[state.global_step])
        wait()  # every process has written its share of the state
        if rank() == 0:
            write_json(here / _COMPLETE, {"processes": world_size()})
            for older in output.glob("checkpoint-*"):
                if older != here:
                    shutil.rmtree(older)
        self._saving.end()

    def _keep(self, index: int) -> None:
        place = self._work.folder / "checkpoints" / str(index)
        temporary = place.with_name(f"{place.name}.tmp")
        if rank() == 0:
            for stale in (place, temporary):
                shutil.rmtree(stale, ignore_errors=True)
            temporary.mkdir(parents=True)
        self._saver.save(temporary)
        if rank() == 0:
            os.sync()
            temporary.replace(place)
