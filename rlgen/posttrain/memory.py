"""How much memory training an arm takes on each GPU: an estimate, from the model's shape and the arm's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rlgen.errors import StudyError
from rlgen.gpus import GPUS
from rlgen.study import load_study
from rlgen.study.sections import ExistingBase, GrpoArm, SftArm, TrainedArm

TOKENS = 1024
"""Tokens whose logits the KL to the base takes at the same time, of both models (`rlgen.posttrain.kl`)."""
_LORA_WEIGHTS = 0.01
"""Adapters have about so large a share of the weights."""


@dataclass(frozen=True)
class Shape:
    """A decoder-only model's shape, as its config.json tells it."""

    layers: int
    width: int
    vocabulary: int
    parameters: int
    block: int
    """Parameters of one decoder block."""
    cached: int
    """Numbers a token that attention keeps of it: keys and values, all blocks."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From a configuration of the Llama family (Llama, Qwen2, Qwen3): projections without their small biases."""
        layers, width, inner = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
        heads = config["num_attention_heads"]
        head = config.get("head_dim") or width // heads
        groups = config.get("num_key_value_heads") or heads
        block = 2 * width * heads * head + 2 * width * groups * head + 3 * width * inner + 2 * width
        embeddings = config["vocab_size"] * width * (1 if config.get("tie_word_embeddings") else 2)
        parameters = layers * block + embeddings + width
        return cls(layers, width, config["vocab_size"], parameters, block, 2 * layers * groups * head)


def _known(layers: int, width: int, inner: int, heads: int, groups: int, vocabulary: int, tied: bool) -> Shape:
    head = 128
    return Shape.of(
        {
            **{"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": inner, "head_dim": head},
            **{"num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": vocabulary},
            "tie_word_embeddings": tied,
        }
    )


KNOWN = {
    "Qwen/Qwen3-0.6B-Base": _known(28, 1024, 3072, 16, 8, 151_936, tied=True),
    "Qwen/Qwen3-4B-Base": _known(36, 2560, 9728, 32, 8, 151_936, tied=True),
    "Qwen/Qwen3-4B-Instruct-2507": _known(36, 2560, 9728, 32, 8, 151_936, tied=True),
    "Qwen/Qwen3-32B": _known(64, 5120, 25_600, 64, 8, 151_936, tied=False),
    "Qwen/Qwen2.5-7B": _known(28, 3584, 18_944, 28, 4, 152_064, tied=False),
    "meta-llama/Llama-3.1-8B-Instruct": _known(32, 4096, 14_336, 32, 8, 128_256, tied=False),
}
"""Shapes of the bases and teachers of the studies that come with rlgen: known without network."""


def shape_of(path: str) -> Shape | None:
    """The shape of the model at a path, or of one of `KNOWN`; None if it is not known here."""
    config = Path(path) / "config.json"
    return Shape.of(json.loads(config.read_text())) if config.is_file() else KNOWN.get(path)


def memory(arm: TrainedArm, shape: Shape, gpus: int, capacity: float) -> dict[str, float]:
    """GB on each of `gpus` GPUs of `capacity` GB, by what takes them (1 GB is 10^9 bytes).

    Model states as in ZeRO (1910.02054, section 3): 2 bytes a weight in bfloat16, 4 a gradient (they are added up in
    float32), 12 for Adam's state with the float32 weights; without DeepSpeed 16 in float32, and 2 for bfloat16 copies.
    Activations with checkpointing, at the longest sequence: each block's input, and one block's own (34 bytes a token
    and unit of width, 2205.05198). Buffers, fragmentation and CUDA itself come on top: a fifth is left for them.
    """
    giga = 1e9
    weights = shape.parameters / giga
    learnt = weights * _LORA_WEIGHTS if arm.lora else weights
    shared = gpus if arm.zero else 1
    found = {
        "weights": (4 if arm.zero == 0 else 2) * weights / (gpus if arm.zero == 3 else 1),
        "gradients": 4 * learnt / shared,
        "optimiser": (8 if arm.zero == 0 else 12) * learnt / shared,
    }
    if arm.zero == 0:
        found["bfloat16 copies"] = 2 * weights
    if arm.offload != "none":
        found["optimiser"] = 0.0
    if arm.offload == "all":
        found["weights"] = 0.0
    longest = arm.max_length if isinstance(arm, SftArm) else getattr(arm, "max_completion_length", 0)
    tokens = arm.sequences_per_pass(gpus) * longest
    found["activations"] = tokens * shape.width * (2 * shape.layers + 34) / giga
    if arm.kl_every:
        found["KL"] = 4 * (TOKENS + 1) * shape.vocabulary / giga + (0 if arm.lora else 2 * weights)
    if isinstance(arm, GrpoArm) and arm.rollouts.engine != "transformers" and not arm.rollouts.server:
        found["vLLM"] = arm.rollouts.gpu_memory * capacity
    return found


def memory_of(study: Path, config: Path | None = None) -> list[str]:
    """`table` of a study's arms. Raises StudyError if the base's shape is not known and no `config` is given."""
    found = load_study(study)
    if not isinstance(found.base, ExistingBase):
        return [f"the base of `{found.study}` is pretrained here: a fraction of a GB on any machine"]
    shape = Shape.of(json.loads(config.read_text())) if config else shape_of(found.base.path)
    if shape is None:
        raise StudyError(f"base.path: the shape of {found.base.path} is not known here; give its --model-config")
    arms = [arm for arm in found.arms if isinstance(arm, TrainedArm)]
    return table(arms, shape, {arm.method: found.resources_of(arm.method).processes for arm in arms})


def table(arms: Sequence[TrainedArm], shape: Shape, gpus: Mapping[str, int]) -> list[str]:
    """A line an arm and kind of GPU: what it takes of how much, and whether that fits. `gpus` counts them by method."""
    lines = []
    for arm in arms:
        count = gpus[arm.method]
        for capacity, kinds in groupby(GPUS, key=lambda kind: GPUS[kind].memory):
            parts = memory(arm, shape, count, capacity)
            total = sum(parts.values())
            words = ", ".join(f"{name} {gigabytes:.1f}" for name, gigabytes in parts.items() if gigabytes >= 0.05)
            fits = "fits" if total < 0.8 * capacity else "tight" if total < 0.9 * capacity else "does not fit"
            kind = f"{count} x {' or '.join(kinds)}"
            lines.append(f"{arm.name}: {kind}: {total:.0f} of {capacity} GB, {fits} ({words or 'hardly any'})")
    return lines
