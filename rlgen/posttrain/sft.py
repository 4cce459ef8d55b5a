"""An arm by supervised fine-tuning on the problems' solutions (TRL's SFTTrainer)."""

from __future__ import annotations

import logging
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Trainer
from trl import SFTConfig, SFTTrainer

from rlgen.data.problems import read_problems
from rlgen.errors import StudyError
from rlgen.models import load_model, load_tokenizer
from rlgen.posttrain.trainer import common_arguments, rate_arguments, steps_of, train
from rlgen.stage import derive_seed, stage
from rlgen.study.sections import SftArm
from rlgen.study.stages import SftSettings

log = logging.getLogger("rlgen")


def sft(settings: SftSettings, base: Path, problems: Path, out: Path) -> None:
    """Fine-tune base on prompt and solution, with the loss on the solution; problems in their own order.

    Raises StudyError if a problem has no solution, or none is short enough.
    """
    arm = settings.arm
    seed = derive_seed(settings.seed, "sft", arm.name)
    with stage("sft", settings, {"base": base, "problems": problems}, out) as work:
        tokenizer = load_tokenizer(base)
        rows = _rows(problems, arm, tokenizer)
        steps = steps_of(len(rows), arm.epochs, arm.batch_size)
        arguments = SFTConfig(
            **common_arguments(work, seed, steps),
            **rate_arguments(arm, steps),
            per_device_train_batch_size=arm.sequences_per_pass,
            gradient_accumulation_steps=arm.batch_size // arm.sequences_per_pass,
            max_length=arm.max_length,
            completion_only_loss=True,
            train_sampling_strategy="sequential",
        )

        def make() -> Trainer:
            model = load_model(base, dtype="float32")
            return SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)

        train(work, make, steps, arm.checkpoints, tokenizer, f"arms[{arm.name}]")


def _rows(problems: Path, arm: SftArm, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    found = []
    long = 0
    for row in read_problems(problems):
        if row["solution"] is None:
            raise StudyError(f"{problems}: problem `{row['id']}` has no solution; arm `{arm.name}` (sft) needs one")
        length = len(tokenizer(row["prompt"] + row["solution"], verbose=False)["input_ids"]) + 1
        if length > arm.max_length:
            long += 1
        else:
            found.append({"prompt": row["prompt"], "completion": row["solution"]})
    if not found:
        raise StudyError(f"arms[{arm.name}].max_length: all {long} problems exceed {arm.max_length} tokens; raise it")
    if long:
        log.info("sft: %d of %d problems exceed %d tokens and are left out", long, long + len(found), arm.max_length)
    return Dataset.from_list(found)
