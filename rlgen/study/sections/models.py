"""The models of a study: its base, and those that exist already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rlgen.adapter_folder import is_adapter
from rlgen.study.sections.common import Fraction, HubPath, PositiveFloat, PositiveInt, Section
from rlgen.study.sections.training import Arm, GrpoArm, SftArm


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
    def adapters(self) -> list[str]:
        """Those of its folders that hold a PEFT adapter."""
        return [path for path in self.folders if is_adapter(Path(path))]

    @property
    def _paths(self) -> list[str]:
        return [self.path]


class Existing(AnyModel):
    """A model that exists already."""

    method: Literal["existing"]


class ExistingBase(Existing):
    """A base model that exists already."""


Base = Annotated[PretrainedBase | ExistingBase, Field(discriminator="method")]


class ExistingArm(Existing, Arm):
    """A post-trained model that exists already, or a PEFT adapter (LoRA) of the base, which is merged into it."""

    checkpoints: list[HubPath] = []
    """Its earlier checkpoints, oldest first, the finished arm left out: folders, or hub ids, `owner/model@revision`."""

    @property
    def _paths(self) -> list[str]:
        return [self.path, *self.checkpoints]


AnyArm = Annotated[SftArm | GrpoArm | ExistingArm, Field(discriminator="method")]
