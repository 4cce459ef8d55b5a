"""Adapters as PEFT saves them, with random weights, and their adoption, for tests."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rlgen.models import load_model, load_tokenizer
from rlgen.posttrain.adopt import adopt
from rlgen.study.sections import ExistingArm
from rlgen.study.stages import AdoptSettings


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


def taken(path: Path | str, base: Path, out: Path, **settings: Any) -> Path:
    """Adopt an arm; returns its folder."""
    arm = ExistingArm(name="arm", method="existing", path=str(path), **settings)
    adopt(AdoptSettings(model=arm), out=out, base=base)
    return out


def reconfigured(folder: Path, **settings: Any) -> Path:
    """Change settings in an adapter's configuration."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def differences(folder: Path) -> dict[str, float]:
    """What adapter.json says of the logits."""
    found: dict[str, float] = json.loads((folder / "adapter.json").read_text())["largest_logit_difference"]
    return found


def of_family(config: Any, base: Path, folder: Path) -> Path:
    """A tiny model of another family with the world's tokenizer."""
    tokenizer = load_tokenizer(base)
    config.vocab_size, config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
    config.bos_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn(weight.shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lora_of(**settings: Any) -> LoraConfig:
    """Settings of a small adapter."""
    return LoraConfig(
        **{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **settings}
    )
