"""Adapters as PEFT saves them, with random weights, for tests."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

from rlgen.models import load_model


def make_adapter(
    base: Path, folder: Path, config: PeftConfig | None = None, strength: float = 0.1, seed: int = 0, **settings: Any
) -> Path:
    """Write an adapter for the model in `base`, whose weights are moved from where they start."""
    if config is None:
        settings = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", **settings}
        config = LoraConfig(task_type="CAUSAL_LM", **settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(load_model(base, dtype="float32"), config)
        for weight in (weight for weight in model.parameters() if weight.requires_grad):
            weight.data += strength * torch.randn(weight.shape)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(model: torch.nn.Module, rows: int = 20) -> torch.Tensor:
    """Logits of fixed token sequences, other than those that adopting looks at."""
    ids = torch.randint(rows, (3, 24), generator=torch.Generator().manual_seed(7))
    return model(input_ids=ids).logits.float()


def adapted_logits(base: Path, adapter: Path) -> torch.Tensor:
    """PEFT's own logits of the base with the adapter, in float32."""
    return logits(PeftModel.from_pretrained(load_model(base, dtype="float32"), adapter).eval())
