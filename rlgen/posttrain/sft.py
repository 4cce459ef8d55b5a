"""An arm by supervised fine-tuning on the problems' solutions (TRL's SFTTrainer)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from rlgen.data.problems import read_problems
from rlgen.errors import StudyError
from rlgen.launch import join, stage_of_all
from rlgen.models import load_tokenizer
from rlgen.posttrain.arms import arm_arguments, train_arm
from rlgen.posttrain.kl import Remembering
from rlgen.posttrain.monitors import NO_MONITORS, Monitors
from rlgen.posttrain.trainer import common_arguments
from rlgen.stage import derive_seed
from rlgen.study.sections import SftArm
from rlgen.study.stages import SftSettings
from rlgen.token_sets import encode_example, in_set


class _Trainer(Remembering, SFTTrainer):
    pass


def sft(settings: SftSettings, base: Path, problems: Path, out: Path, monitors: Monitors = NO_MONITORS) -> None:
    """Fine-tune base on prompt and solution, with the loss on the solution; problems in their own order.

    Raises StudyError if a problem has no solution or is too long: every arm is trained on the same problems, so none
    is left out here.
    """
    arm = settings.arm
    seed = derive_seed(settings.seed, "sft", arm.name)
    join(alone=arm.zero > 0)
    with stage_of_all("sft", settings, {"base": base, "problems": problems}, out) as work:
        tokenizer = load_tokenizer(base)
        rows = sft_rows(problems, arm, tokenizer)
        steps = arm.steps(len(rows))
        arguments = SFTConfig(
            **common_arguments(work, seed, steps),
            **arm_arguments(arm, steps),
            **monitors.arguments(arm.name),
            max_length=arm.max_length,
            completion_only_loss=True,
            train_sampling_strategy="sequential",
        )
        build = partial(_Trainer, args=arguments)
        train_arm(work, arm, build, rows, tokenizer, base, problems)


def sft_rows(problems: Path, arm: SftArm, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Return each problem's token ids, and which of them are learnt, as TRL takes them: it encodes nothing itself."""
    found = []
    for row in read_problems(problems):
        if row["solution"] is None:
            raise StudyError(f"{problems}: problem `{row['id']}` has no solution; arm `{arm.name}` (sft) needs one")
        tokens = encode_example(tokenizer, row["prompt"], row["solution"])
        length = len(tokens.ids)
        if length > arm.max_length:
            raise StudyError(
                f"{problems}: problem `{row['id']}` and its solution have {length} tokens, and arm `{arm.name}` takes "
                f"{arm.max_length} (arms[{arm.name}].max_length); raise that, or have such problems left out for all "
                "arms (problems.max_prompt_tokens, problems.max_solution_tokens)"
            )
        learnt = in_set("answer", np.arange(length), len(tokens.prompt))
        found.append({"input_ids": tokens.ids, "completion_mask": learnt.astype(int).tolist()})
    return found
