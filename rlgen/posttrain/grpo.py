"""An arm by reinforcement learning with verifiable rewards (TRL's GRPOTrainer)."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from rlgen.data.problems import read_problems
from rlgen.errors import StudyError
from rlgen.launch import join, stage_of_all
from rlgen.models import load_config, load_tokenizer
from rlgen.posttrain.arms import arm_arguments, train_arm
from rlgen.posttrain.kl import Remembering
from rlgen.posttrain.monitors import NO_MONITORS, Monitors
from rlgen.posttrain.rewards import load_reward
from rlgen.posttrain.trainer import common_arguments
from rlgen.stage import derive_seed
from rlgen.study.sections import GrpoArm
from rlgen.study.stages import GrpoSettings
from rlgen.token_sets import Ids, encode, encode_all


class _Trainer(Remembering, GRPOTrainer):
    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[Ids], None, dict[str, Any]]:
        """Encode the prompts as evaluation does: TRL's own encoding begins twice a prompt that is written with BOS."""
        return encode_all(self.processing_class, prompts), None, {}


def grpo(settings: GrpoSettings, base: Path, problems: Path, out: Path, monitors: Monitors = NO_MONITORS) -> None:
    """Train base on the reward of its own answers to the problems, in their own order.

    Raises StudyError if the reward cannot be imported, vLLM is asked for and is not there, or a prompt leaves no room
    for its completion.
    """
    arm = settings.arm
    seed = derive_seed(settings.seed, "grpo", arm.name)
    inputs = {"base": base, "problems": problems} | {
        file: Path(file) for file in [*arm.reward_files, *settings.verifier_files]
    }
    join(alone=arm.zero > 0)
    with stage_of_all("grpo", settings, inputs, out) as work:
        reward = load_reward(arm.reward, settings.verifier)
        tokenizer = load_tokenizer(base)
        rows, longest = _rows(problems, arm, tokenizer, load_config(base))
        steps = arm.steps(len(rows))
        arguments = GRPOConfig(
            **common_arguments(work, seed, steps),
            **arm_arguments(arm, steps),
            **monitors.arguments(arm.name),
            **rollout_arguments(arm, longest),
            num_generations=arm.generations,
            max_completion_length=arm.max_completion_length,
            temperature=arm.temperature,
            beta=arm.beta,
            epsilon=arm.clip_low,
            epsilon_high=arm.clip_high,
            shuffle_dataset=False,
        )
        build = partial(_Trainer, reward_funcs=reward, args=arguments)
        train_arm(work, arm, build, rows, tokenizer, base, problems)


def rollout_arguments(arm: GrpoArm, longest: int) -> dict[str, Any]:
    """Training arguments of what generates the completions, for prompts of `longest` tokens at most.

    Raises StudyError if vLLM is asked for and is not there.
    """
    rollouts = arm.rollouts
    installed = find_spec("vllm") is not None
    if rollouts.engine == "transformers" or (
        rollouts.engine == "auto" and not rollouts.server and not (installed and torch.cuda.is_available())
    ):
        return {"use_vllm": False}
    if not installed:
        raise StudyError(
            f"arms[{arm.name}].rollouts: vLLM is not installed; `pip install vllm`, or set engine to `transformers`"
        )
    if rollouts.server:
        return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": rollouts.server}
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": rollouts.gpu_memory,
        "vllm_tensor_parallel_size": rollouts.tensor_parallel,
        "vllm_max_model_length": longest + arm.max_completion_length,  # else it makes room for the model's longest
    }


def _rows(
    problems: Path, arm: GrpoArm, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> tuple[list[dict[str, Any]], int]:
    """The rows, and the tokens of the longest prompt."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    found, longest = [], 0
    for row in read_problems(problems):
        length = len(encode(tokenizer, row["prompt"]))
        if most is not None and length + arm.max_completion_length > most:
            raise StudyError(
                f"{problems}: problem `{row['id']}` has {length} tokens; with {arm.max_completion_length} of an answer "
                f"(arms[{arm.name}].max_completion_length) it exceeds the model's {most}; lower that, or have such "
                "problems left out for all arms (problems.max_prompt_tokens)"
            )
        found.append({"prompt": row["prompt"], "answer": row["answer"]})
        longest = max(longest, length)
    return found, longest
