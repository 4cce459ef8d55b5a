"""Low-rank adapters for an arm: trained apart, merged into every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig
from torch import Tensor

from rlgen.study.sections import Lora

_PREFIX = "base_model.model."


def lora_config(lora: Lora | None) -> LoraConfig | None:
    """PEFT's configuration; None without adapters."""
    if lora is None:
        return None
    targets: Any = lora.targets or "all-linear"
    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )


def merged(state: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The plain model's weights: W + alpha / rank * B A where there is an adapter. The trained ones are left alone."""
    plain: dict[str, Tensor] = {}
    for name, weight in state.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            module = name.removesuffix(".base_layer.weight")
            down_RI, up_OR = (state[f"{module}.lora_{which}.default.weight"].float() for which in "AB")
            weight = (weight.float() + lora.alpha / lora.rank * (up_OR @ down_RI)).to(weight.dtype)
        plain[name.removeprefix(_PREFIX).replace(".base_layer.", ".")] = weight
    return plain
