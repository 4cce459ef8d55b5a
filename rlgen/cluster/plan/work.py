"""What a job has to do, and how long that takes on a machine."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rlgen.errors import StudyError
from rlgen.gpus import GPUS, Gpu

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Work:
    """What a job has to do, summed over the devices that share it."""

    flops: float = 0.0
    """Of products."""
    moved: float = 0.0
    """Bytes that go through the devices' memory beside them: weights for each written token, the optimiser's state."""
    passes: float = 0.0
    """Times that a model is called, whatever is in the batch."""
    seconds: float = 0.0
    """Of one core, for what is neither products nor files: tokenising, resampling."""
    read: float = 0.0
    """Bytes from disk."""
    written: float = 0.0
    """Bytes that stay on disk."""
    scratch: float = 0.0
    """Bytes on disk while it runs: the state that a kill goes on from."""
    memory: float = 0.0
    """Bytes on each device."""

    def __add__(self, other: Work) -> Work:
        """Both, one after the other."""
        summed = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return Work(**{**summed, "memory": max(self.memory, other.memory)})

    def times(self, count: float) -> Work:
        """The same so many times; what it takes of memory stays."""
        grown = {field.name: getattr(self, field.name) * count for field in fields(self)}
        return Work(**{**grown, "memory": self.memory})


@dataclass(frozen=True)
class Machine:
    """What a job's devices reach, each: the GPUs that it asks for, or else the threads."""

    name: str
    flops: float
    """Products, FLOP/s."""
    bandwidth: float
    """Bytes/s."""
    launch: float
    """Seconds a call of a model takes at least."""
    disk: float
    """Bytes/s of a job."""
    start: float
    """Seconds from a job's start to its first batch."""
    memory: float
    """Bytes of a device."""
    weight_bytes: int
    """Of a model's weight."""

    def seconds(self, work: Work, devices: int) -> float:
        """How long a job of so many devices takes: what is read is read ahead, what is written is not."""
        products = work.flops / self.flops + work.moved / self.bandwidth + work.passes * self.launch
        return self.start + max(products / devices, work.read / self.disk) + work.written / self.disk + work.seconds


CPU = Machine("CPU", 50 * GIGA, 5 * GIGA, 5e-3, 0.5 * GIGA, 6.0, 16 * GIGA, 4)
"""A core: what those of the machine have that rlgen was made on (README, Measured)."""
_PRODUCTS, _BANDWIDTH = 0.4, 0.6
"""Shares of a GPU's data sheet that jobs are taken to reach."""


def machine_of(gpu: str) -> Machine:
    """The machine with GPUs of that kind. Raises StudyError if it is none of `GPUS`."""
    name = next((name for name in GPUS if _plain(name) == _plain(gpu)), None)
    if name is None:
        raise StudyError(f"--gpu: given '{gpu}'; use one of: {', '.join(GPUS)}")
    kind: Gpu = GPUS[name]
    return Machine(
        name,
        _PRODUCTS * kind.tflops * TERA,
        _BANDWIDTH * kind.bandwidth * TERA,
        0.02,
        GIGA,
        60.0,
        kind.memory * GIGA,
        2,
    )


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "")
