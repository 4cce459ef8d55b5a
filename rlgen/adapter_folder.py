"""What a folder with a PEFT adapter tells about itself before any model is loaded. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADAPTER_CONFIG = "adapter_config.json"
SAFE_WEIGHTS, PICKLED_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"
"""The names that PEFT gives to an adapter's weights."""
MERGEABLE = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3")
"""Kinds of adapters (`peft_type`) that can be merged into the weights of a model."""

_WHOLE_MODEL = ("model*.safetensors", "pytorch_model*.bin", "model.safetensors.index.json")
_FORBIDDEN = {
    "alora_invocation_tokens": "the adapter is active only after certain tokens, which no weights can express",
    "arrow_config": "the adapter is one of several that are chosen for each token, which no weights can express",
    "layer_replication": "it repeats decoder blocks, so its model does not have the base's blocks",
    "megatron_config": "it names a Python module that would be imported",
}
"""Keys of a configuration that must be empty, with the reason."""
CHANGING_STARTS = ("pissa", "olora")
"""Values of `init_lora_weights` that change the base's weights, in the same way each time."""
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", *CHANGING_STARTS)
"""Values of `init_lora_weights` with which the model that was trained can be had again."""
MERGE_YOURSELF = "merge it into the base yourself, and give the folder of the merged model"


@dataclass(frozen=True)
class AdapterFault:
    """Why an adapter's folder cannot be used."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read an adapter's configuration.

    Args:
        folder: The adapter's folder.

    Returns:
        The object in its adapter_config.json.

    Raises:
        ValueError: The file holds no JSON object, or is not text.
    """
    found = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"it holds {type(found).__name__}, not an object")
    return found


def adapter_fault(folder: Path, allow_pickle: bool) -> AdapterFault | None:
    """Find what is wrong with an adapter's folder, as far as its configuration and its files' names tell.

    Args:
        folder: A folder for which `is_adapter` is true.
        allow_pickle: Whether the weights may be pickled.

    Returns:
        The first fault; None if there is none.
    """
    try:
        config = read_adapter_config(folder)
    except (OSError, ValueError, RecursionError) as error:
        return AdapterFault(f"{ADAPTER_CONFIG} cannot be read: {error}", "save the adapter again")
    return _unmergeable(config) or _no_weights(folder, allow_pickle)


def _unmergeable(config: dict[str, Any]) -> AdapterFault | None:
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind not in MERGEABLE:
        problem = f"{ADAPTER_CONFIG}: `peft_type` {kind!r} is none of those that are merged ({', '.join(MERGEABLE)})"
        return AdapterFault(problem, MERGE_YOURSELF if kind else "save the adapter again with PEFT")
    if task not in (None, "CAUSAL_LM"):
        return AdapterFault(
            f"{ADAPTER_CONFIG}: `task_type` {task!r} is not a causal language model's", "give an adapter for CAUSAL_LM"
        )
    for key, why in _FORBIDDEN.items():
        if config.get(key):
            return AdapterFault(f"{ADAPTER_CONFIG}: `{key}` is set: {why}", "give an adapter without it")
    start = config.get("init_lora_weights")
    if not any(start is known or (isinstance(known, str) and start == known) for known in _STARTS):
        problem = f"{ADAPTER_CONFIG}: `init_lora_weights` {start!r} starts from a base with changed weights"
        remedy = "convert the adapter when you save it (PEFT's `path_initial_model_for_weight_conversion`)"
        return AdapterFault(problem, remedy)
    return None


def _no_weights(folder: Path, allow_pickle: bool) -> AdapterFault | None:
    whole = sorted(path.name for pattern in _WHOLE_MODEL for path in folder.glob(pattern))
    if whole:
        problem = f"it holds an adapter ({ADAPTER_CONFIG}) and the weights of a whole model ({whole[0]})"
        return AdapterFault(problem, "keep one of them in a folder of its own, and give that folder")
    if (folder / SAFE_WEIGHTS).is_file():
        return _broken(folder / SAFE_WEIGHTS)
    if not (folder / PICKLED_WEIGHTS).is_file():
        problem = f"{ADAPTER_CONFIG} is there, and the adapter's weights are not"
        return AdapterFault(problem, f"add {SAFE_WEIGHTS}")
    if not allow_pickle:
        problem = f"the adapter's weights are pickled ({PICKLED_WEIGHTS}), and unpickling can run any code"
        remedy = f"convert them to {SAFE_WEIGHTS}, or set the model's `allow_pickle: true` if you trust who made them"
        return AdapterFault(problem, remedy)
    return None


def _broken(weights: Path) -> AdapterFault | None:
    """Find whether a file is not safetensors or ends too early, by its header and its size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="np") as opened:
            empty = not list(opened.keys())
    except (OSError, SafetensorError) as error:
        return AdapterFault(f"{weights.name} cannot be read: {error}", "copy or download it again")
    return AdapterFault(f"{weights.name} holds no tensor", "save the adapter again") if empty else None
