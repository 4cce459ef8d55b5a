"""An arm by reinforcement learning with verifiable rewards (TRL's GRPOTrainer)."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

from rlgen.data.problems import read_problems
from rlgen.models import load_model, load_tokenizer
from rlgen.posttrain.rewards import load_reward
from rlgen.posttrain.trainer import common_arguments, rate_arguments, steps_of, train
from rlgen.stage import derive_seed, stage
from rlgen.study.stages import GrpoSettings


def grpo(settings: GrpoSettings, base: Path, problems: Path, out: Path) -> None:
    """Train base on the reward of its own answers to the problems, in their own order.

    Raises StudyError if the reward cannot be imported.
    """
    arm = settings.arm
    seed = derive_seed(settings.seed, "grpo", arm.name)
    inputs = {"base": base, "problems": problems} | {file: Path(file) for file in arm.reward_files}
    with stage("grpo", settings, inputs, out) as work:
        reward = load_reward(arm.reward)
        tokenizer = load_tokenizer(base)
        rows = Dataset.from_list(
            [{"prompt": row["prompt"], "answer": row["answer"]} for row in read_problems(problems)]
        )
        steps = steps_of(len(rows), arm.epochs, arm.batch_size / arm.generations)
        arguments = GRPOConfig(
            **common_arguments(work, seed, steps),
            **rate_arguments(arm, steps),
            per_device_train_batch_size=arm.sequences_per_pass,
            gradient_accumulation_steps=arm.batch_size // arm.sequences_per_pass,
            num_generations=arm.generations,
            max_completion_length=arm.max_completion_length,
            temperature=arm.temperature,
            beta=arm.beta,
            epsilon=arm.clip_low,
            epsilon_high=arm.clip_high,
            shuffle_dataset=False,
        )

        def make() -> Trainer:
            model = load_model(base, dtype="float32")
            return GRPOTrainer(
                model=model, reward_funcs=reward, args=arguments, train_dataset=rows, processing_class=tokenizer
            )

        train(work, make, steps, arm.checkpoints, tokenizer, f"arms[{arm.name}]")
