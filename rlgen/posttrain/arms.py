"""What SFT and GRPO share: an arm's settings as training arguments, its problems in order, its training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Trainer

from rlgen.data.problems import read_problems
from rlgen.launch import rank, world_size
from rlgen.models import load_config, load_model
from rlgen.posttrain.deepspeed import deepspeed_config, prepare_extensions
from rlgen.posttrain.kl import measure_kl
from rlgen.posttrain.lora import lora_config
from rlgen.posttrain.trainer import train
from rlgen.stage import Workspace, json_digest, write_json
from rlgen.study.sections import GrpoArm, SftArm

PROBLEMS_JSON = "problems.json"
"""{count, order}: how many problems, and the digest of their ids in order."""
Rows = list[dict[str, Any]]


def train_arm(
    work: Workspace,
    arm: SftArm | GrpoArm,
    build: Callable[..., Trainer],
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    base: Path,
    problems: Path,
) -> None:
    """Train an arm to its end. `build` makes TRL's trainer of a model, a data set, a tokenizer and adapters.

    The model is trained from float32 weights and stored in the base's precision. Raises StudyError as `train`.
    """
    note_problems(work, problems)
    if arm.zero:
        prepare_extensions(work.scratch)

    def make() -> Trainer:
        model = load_model(base, dtype="float32")
        trainer = build(
            model=model,
            train_dataset=Dataset.from_list(in_order(rows, arm)),
            processing_class=tokenizer,
            peft_config=lora_config(arm.lora, model),
        )
        measure_kl(trainer, arm, base)
        return trainer

    section, stored = f"arms[{arm.name}]", load_config(base).dtype
    train(work, make, arm.steps(len(rows)), arm.checkpoints, tokenizer, section, arm.lora, stored)


def arm_arguments(arm: SftArm | GrpoArm, steps: int) -> dict[str, Any]:
    """Training arguments that follow from an arm's settings, and from how many processes there are."""
    gpu = torch.cuda.is_available()
    constant = arm.schedule == "constant"  # transformers' own `constant` has no warm-up
    checkpointing = arm.gradient_checkpointing
    return {
        "learning_rate": arm.lr,
        "lr_scheduler_type": "constant_with_warmup" if constant else arm.schedule,
        "warmup_steps": round(arm.warmup * steps),
        "per_device_train_batch_size": arm.sequences_per_pass(world_size()),
        "gradient_accumulation_steps": arm.passes_per_step(world_size()),
        "bf16": gpu if arm.precision == "auto" else arm.precision == "bfloat16",
        "gradient_checkpointing": gpu if checkpointing is None else checkpointing,
        "deepspeed": deepspeed_config(arm),
    }


def in_order(rows: Rows, arm: SftArm | GrpoArm) -> Rows:
    """The rows of every step one after the other: from the first to the last, `epochs` times, and again from the first
    until the last step is full. What the processes and passes of a step share is a stretch of this list.
    """
    count = arm.steps(len(rows)) * arm.problems_per_step
    return [rows[index % len(rows)] for index in range(count)]


def note_problems(work: Workspace, problems: Path) -> None:
    """Write down which problems the arm is trained on, in which order: the summary compares the arms."""
    if rank() == 0:
        ids = [row["id"] for row in read_problems(problems)]
        write_json(work.folder / PROBLEMS_JSON, {"count": len(ids), "order": json_digest(ids)})
