"""The arms that are trained here, and how."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from rlgen.study.sections.common import Fraction, Name, NonNegative, PositiveFloat, PositiveInt, Section, files_of


class Arm(Section):
    """What every arm has."""

    name: Name
    """The arm's name; it becomes a model of the study."""


class Lora(Section):
    """Low-rank adapters (2106.09685)."""

    rank: PositiveInt = 16
    """Rank of a weight's change."""
    alpha: PositiveInt = 32
    """The change is scaled by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout before the adapter."""
    targets: list[str] = []
    """Names of the linear modules that are adapted, for instance q_proj; none: all but the output's."""


class Rollouts(Section):
    """What generates GRPO's completions."""

    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """`auto`: vLLM where it is installed and there is a GPU. Killed and resumed, vLLM draws other samples; the
    transformers engine draws those of an undisturbed run."""
    server: str | None = None
    """Address of a vLLM server (`trl vllm-serve`), for instance http://node7:8000. None: in the training processes."""
    gpu_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of a GPU's memory that vLLM takes in the training processes."""
    tensor_parallel: PositiveInt = 1
    """GPUs that share vLLM's weights in the training processes."""


class TrainedArm(Arm):
    """What every arm that is trained here has."""

    method: str
    epochs: PositiveFloat = 1.0
    """Passes over the problems."""
    batch_size: PositiveInt = 128
    """Sequences per optimiser step: solutions in SFT, completions in GRPO."""
    micro_batch_size: PositiveInt | None = None
    """Sequences per forward pass of a process; the rest is gradient accumulation. Times the processes (one a GPU) it
    divides `batch_size`. None: the batch size, shared by the processes."""
    warmup: Fraction = 0.0
    """Share of steps over which the learning rate rises linearly to its peak."""
    checkpoints: Annotated[int, Field(gt=0, le=10**5)] = 5
    """Checkpoints kept, evenly spaced; the last is the finished arm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products; weights are updated in float32. `auto`: bfloat16 on a GPU."""
    zero: Literal[0, 2, 3] = 0
    """DeepSpeed's ZeRO stage: 2 shares gradients and the optimiser's state among the processes, 3 the weights too."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What DeepSpeed keeps in the CPU's memory: the optimiser's state, or the weights too (zero 3)."""
    gradient_checkpointing: bool | None = None
    """Activations are computed again in the backward pass instead of being kept. None: on a GPU."""
    lora: Lora | None = None
    """Low-rank adapters are trained instead of all weights, and merged into every checkpoint."""
    kl_every: PositiveInt | None = None
    """Steps between measurements of the KL divergence to the base, on the step's own sequences. None: not measured.
    It takes the base's weights on every GPU (with `lora` none)."""

    def sequences_per_pass(self, processes: int) -> int:
        """`micro_batch_size`, or a process' share of the whole batch."""
        return self.micro_batch_size or self.batch_size // processes

    def passes_per_step(self, processes: int) -> int:
        """Forward passes of a process per optimiser step."""
        return self.batch_size // (self.sequences_per_pass(processes) * processes)

    @property
    def problems_per_step(self) -> int:
        """Problems that an optimiser step is on."""
        return self.batch_size

    def steps(self, problems: int) -> int:
        """Optimiser steps in which every problem is seen `epochs` times; the last is filled with the first problems."""
        return math.ceil(self.epochs * problems / self.problems_per_step)


class SftArm(TrainedArm):
    """Supervised fine-tuning on the problems' solutions (TRL's SFTTrainer)."""

    method: Literal["sft"]
    lr: PositiveFloat = 5e-5
    """Peak learning rate. Paper: 5e-5."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up."""
    max_length: PositiveInt = 16384
    """Longest prompt and solution, in tokens; a longer one ends the job: `problems` says which are left out."""


class GrpoArm(TrainedArm):
    """Group relative policy optimisation on the problems' answers (TRL's GRPOTrainer)."""

    method: Literal["grpo"]
    lr: PositiveFloat = 1e-6
    """Peak learning rate. Paper: 1e-6."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    generations: Annotated[int, Field(ge=2, le=10**6)] = 8
    """Rollouts per prompt; divides `batch_size`. Paper: 8."""
    max_completion_length: PositiveInt = 16384
    """Longest completion, in tokens."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of the rollouts."""
    beta: NonNegative = 0.0
    """Weight of the KL penalty to the base. Paper: none."""
    clip_low: PositiveFloat = 0.2
    """Lower clipping range of the importance ratio."""
    clip_high: PositiveFloat = 0.28
    """Upper clipping range of the importance ratio."""
    reward: str = "rlgen.posttrain.rewards:final_answer"
    """`package.module:function` with TRL's reward signature; the default gives 1 for a right final answer."""

    rollouts: Rollouts = Rollouts()
    """What generates the completions."""

    @property
    def problems_per_step(self) -> int:
        """Problems that an optimiser step is on: each has `generations` completions."""
        return self.batch_size // self.generations

    @property
    def reward_files(self) -> list[str]:
        """The reward's file, if it is the user's own."""
        return files_of(self.reward)
