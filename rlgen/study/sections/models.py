"""The models of a study: its base and its arms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from rlgen.study.sections.common import Fraction, HubPath, Name, NonNegative, Section


class PretrainedBase(Section):
    """A small Qwen3 base, pretrained here from scratch on the miniature world (METHOD: the miniature world)."""

    method: Literal["pretrain"]
    hidden_size: PositiveInt = 128
    """Width d of the residual stream."""
    intermediate_size: PositiveInt = 256
    """Width of the MLP."""
    layers: PositiveInt = 4
    """Number of decoder blocks."""
    heads: PositiveInt = 4
    """Attention heads; `hidden_size` must be a multiple of it."""
    steps: PositiveInt = 480
    """Optimiser steps."""
    batch_size: PositiveInt = 64
    """Documents per step."""
    lr: PositiveFloat = 3e-3
    """Peak learning rate; it falls linearly over the last 60% of steps."""
    think_rate: Fraction = 0.3
    """Share of documents answered by running intermediate results (always right)."""
    guess_accuracy: Fraction = 0.3
    """Share of the other documents whose immediate answer is right."""
    first_think_rate: Fraction = 0.9
    """`think_rate` in the first part of training: thinking is learnt fastest when there is much of it."""
    first_share: Fraction = 0.6
    """The first part's share of training."""


class AnyModel(Section):
    """Where a model is that exists already, and what it may do."""

    path: HubPath
    """Folder in Hugging Face format, or a hub id."""
    revision: str | None = None
    """Commit, tag or branch on the hub; the commit that it is when the model is adopted is what every stage loads."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may be run."""
    allow_pickle: bool = False
    """Whether weights may be other than safetensors; to unpickle them can run any code."""

    @property
    def folders(self) -> list[str]:
        """Those of its paths that are folders here."""
        return [path for path in self._paths if Path(path).is_dir()]

    @property
    def _paths(self) -> list[str]:
        return [self.path]


class Existing(AnyModel):
    """A model that exists already."""

    method: Literal["existing"]


class ExistingBase(Existing):
    """A base model that exists already."""


Base = Annotated[PretrainedBase | ExistingBase, Field(discriminator="method")]


class Arm(Section):
    """What every arm has."""

    name: Name
    """The arm's name; it becomes a model of the study."""


class TrainedArm(Arm):
    """What every arm that is trained here has."""

    epochs: PositiveFloat = 1.0
    """Passes over the problems."""
    batch_size: PositiveInt = 128
    """Sequences per optimiser step: solutions in SFT, completions in GRPO."""
    micro_batch_size: PositiveInt | None = None
    """Sequences per forward pass; the rest is gradient accumulation. Divides `batch_size`. None: the batch size."""
    warmup: Fraction = 0.0
    """Share of steps over which the learning rate rises linearly to its peak."""
    checkpoints: PositiveInt = 5
    """Checkpoints kept, evenly spaced; the last is the finished arm."""

    @property
    def sequences_per_pass(self) -> int:
        """`micro_batch_size`, or the whole batch."""
        return self.micro_batch_size or self.batch_size


class SftArm(TrainedArm):
    """Supervised fine-tuning on the problems' solutions (TRL's SFTTrainer)."""

    method: Literal["sft"]
    lr: PositiveFloat = 5e-5
    """Peak learning rate. Paper: 5e-5."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up."""
    max_length: PositiveInt = 16384
    """Longest prompt and solution, in tokens; longer ones are left out and counted."""


class GrpoArm(TrainedArm):
    """Group relative policy optimisation on the problems' answers (TRL's GRPOTrainer)."""

    method: Literal["grpo"]
    lr: PositiveFloat = 1e-6
    """Peak learning rate. Paper: 1e-6."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    generations: Annotated[int, Field(ge=2)] = 8
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

    @property
    def reward_files(self) -> list[str]:
        """The reward's file, if it lies under the working directory."""
        path = Path(*self.reward.partition(":")[0].split(".")).with_suffix(".py")
        return [str(path)] if path.is_file() else []


class ExistingArm(Existing, Arm):
    """A post-trained model that exists already."""

    checkpoints: list[HubPath] = []
    """Its earlier checkpoints, oldest first, the finished arm left out: folders, or hub ids, `owner/model@revision`."""

    @property
    def _paths(self) -> list[str]:
        return [self.path, *self.checkpoints]


AnyArm = Annotated[SftArm | GrpoArm | ExistingArm, Field(discriminator="method")]
