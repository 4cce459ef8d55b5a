"""DeepSpeed's ZeRO for an arm: its configuration, and whole weights out of what the processes share."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Trainer

from rlgen.errors import StudyError
from rlgen.launch import rank, wait
from rlgen.study.sections import TrainedArm


def deepspeed_config(arm: TrainedArm) -> dict[str, Any] | None:
    """What `TrainingArguments.deepspeed` is given; None if the arm does without.

    Raises StudyError if DeepSpeed is not installed.
    """
    if arm.zero == 0:
        return None
    if find_spec("deepspeed") is None:
        raise StudyError(
            f"arms[{arm.name}].zero: DeepSpeed is not installed; `pip install --no-build-isolation deepspeed` after "
            "torch, or set zero to 0"
        )
    zero: dict[str, Any] = {"stage": arm.zero, "overlap_comm": True, "contiguous_gradients": True}
    if arm.zero == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # also for float32: checkpoints are whole models
    config: dict[str, Any] = {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "data_types": {"grad_accum_dtype": "fp32"},  # hundreds of passes a step are more than bfloat16 can add up
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
    }
    if arm.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        betas_and_rest = dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")
        config["optimizer"] = {"type": "AdamW", "params": betas_and_rest}  # DeepSpeed's own runs on the CPU's vectors
    if arm.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return config


def prepare_extensions(scratch: Path) -> None:
    """Have what DeepSpeed compiles when it starts kept in the stage's own folder. All processes must call it.

    A process that is killed while it compiles leaves a lock behind, which every later one would wait for: locks in
    the folder are a killed run's, and are deleted.
    """
    folder = scratch / "extensions"
    if rank() == 0:
        folder.mkdir(exist_ok=True)
        for lock in folder.rglob("lock"):
            lock.unlink()
    wait()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder.resolve())


def whole_state(trainer: Trainer) -> dict[str, Tensor] | None:
    """The model's weights where the processes share them (ZeRO 3), on the first; None if every process has all.

    All processes must ask.
    """
    plugin = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    if plugin is None or plugin.zero_stage < 3:
        return None
    state: dict[str, Tensor] = trainer.accelerator.get_state_dict(trainer.deepspeed) or {}
    return state
