"""Low-rank adapters for an arm: trained apart, merged into every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlgen.errors import StudyError
from rlgen.study.sections import Lora

_PREFIX = "base_model.model."


def lora_config(lora: Lora | None, model: nn.Module) -> LoraConfig | None:
    """PEFT's configuration for a model; None without adapters. Raises StudyError if it has no module of a name."""
    if lora is None:
        return None
    known = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for target in lora.targets:
        if target not in known:
            raise StudyError(
                f"lora.targets: the model has no linear module `{target}`; use of {', '.join(sorted(known))}"
            )
    if not lora.targets and (name := next((n for n, m in model.named_modules() if isinstance(m, Conv1D)), None)):
        raise StudyError(
            f"lora: `{name}` of {type(model).__name__} stores its weights transposed, which adapters cannot be merged "
            "into; leave `lora` out"
        )
    targets: Any = lora.targets or "all-linear"
    if not lora.targets and any(parameter.ndim == 3 for parameter in model.parameters()):
        # PEFT would also adapt the parameters of experts, which are no linear modules and cannot be merged by `merged`
        targets = sorted(known - {"lm_head"})
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
