"""How a crosscoder is spread over processes: tokens over one axis of a mesh, features over the other.

The maths asks for sums and gatherings over an axis; over an axis of one process they give back what they are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from rlgen.errors import StudyError
from rlgen.launch import join, world_size


@dataclass(frozen=True)
class Axis:
    """The processes that share something along one axis of the mesh, and this one's place among them."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the axis, without gradient; the same tensor if it is alone."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def sum_(self, value: Tensor) -> None:
        """As `sum`, in place."""
        if self.size > 1:
            dist.all_reduce(value, group=self.group)

    def partial_sum(self, value: Tensor) -> Tensor:
        """The sum of what each process has computed of a whole that all go on with: its gradient goes to each part."""
        if self.size == 1:
            return value
        total: Tensor = _PartialSum.apply(value, self)  # type: ignore[no-untyped-call]
        return total

    def gather(self, value_N: Tensor) -> Tensor:
        """Everyone's values [N of its own, ...] one after the other."""
        if self.size == 1:
            return value_N
        lengths = [torch.zeros((), dtype=torch.int64, device=value_N.device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor(len(value_N), device=value_N.device), group=self.group)
        longest = max(int(length) for length in lengths)
        padded = value_N.new_zeros(longest, *value_N.shape[1:])
        padded[: len(value_N)] = value_N
        found = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(found, padded, group=self.group)
        return torch.cat([part[: int(length)] for part, length in zip(found, lengths, strict=True)])


class _PartialSum(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, axis: Axis) -> Tensor:
        return axis.sum(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


@dataclass(frozen=True)
class Mesh:
    """Every process has a share of the batch's tokens (`data`) and a share of the features (`features`)."""

    data: Axis = Axis()
    features: Axis = Axis()

    @property
    def rank(self) -> int:
        """Among all processes."""
        return self.data.rank * self.features.size + self.features.rank

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.data.size * self.features.size

    def gather(self, value_N: Tensor) -> Tensor:
        """Everyone's values."""
        return self.data.gather(self.features.gather(value_N))

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.data.sum(self.features.sum(value))

    def share(self, features: int) -> slice:
        """This process' features of so many. Raises StudyError if they cannot be shared evenly."""
        if features % self.features.size:
            raise StudyError(f"features: {features} cannot be shared by {self.features.size} processes; use a multiple")
        each = features // self.features.size
        return slice(self.features.rank * each, (self.features.rank + 1) * each)


ALONE = Mesh()
"""Of one process."""


def mesh_of(feature_shards: int = 1) -> Mesh:
    """The mesh of this process' `torchrun` (or submitit) job: `feature_shards` share the features, the rest the tokens.

    A mesh of one where there is no such job. Raises StudyError if the processes cannot be so divided.
    """
    world = world_size()
    if world % feature_shards:
        raise StudyError(f"feature_shards: {feature_shards} do not divide {world} processes; use a divisor of {world}")
    if world == 1:
        return Mesh()
    join()
    ranks = torch.arange(world).view(-1, feature_shards)
    here = (ranks == dist.get_rank()).nonzero()[0]
    groups = [dist.new_group(column) for column in ranks.T.tolist()], [dist.new_group(row) for row in ranks.tolist()]
    return Mesh(
        data=Axis(int(here[0]), len(ranks), groups[0][int(here[1])]),
        features=Axis(int(here[1]), feature_shards, groups[1][int(here[0])]),
    )
