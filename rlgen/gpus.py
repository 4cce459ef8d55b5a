"""Kinds of GPUs, by their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """What one GPU has."""

    memory: float
    """GB."""
    tflops: float
    """Dense products in bfloat16, TFLOP/s."""
    bandwidth: float
    """Of its memory, TB/s."""


GPUS = {
    "RTX 4090": Gpu(24, 165, 1.01),
    "A100-40GB": Gpu(40, 312, 1.56),
    "A100-80GB": Gpu(80, 312, 2.04),
    "H100": Gpu(80, 989, 3.35),
    "H200": Gpu(141, 989, 4.8),
}
"""Usual ones, smallest first."""
