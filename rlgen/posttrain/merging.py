"""Putting a PEFT adapter on a model, with every tensor accounted for, and merging it into the weights."""

from __future__ import annotations

import dataclasses
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModelForCausalLM, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlgen.adapter_folder import ADAPTER_CONFIG, CHANGING_STARTS, PICKLED_WEIGHTS, SAFE_WEIGHTS
from rlgen.errors import StudyError

_FOREIGN = ("base_model_name_or_path", "revision", "auto_mapping", "peft_version")
"""What a configuration says about other models and their classes. Nothing is loaded by it."""
_PREPARATIONS = ("eva_config", "corda_config", "lora_ga_config", "loftq_config", "runtime_config")
"""Settings of an adapter's start, which its weights replace; some name files that PEFT would unpickle."""
OTHER_BASE = "give the base that the adapter was trained on as the study's base, or a whole copy of the adapter"
"""The remedy if an adapter and the base do not fit."""
_FAULTS = (
    *(AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(SafetensorError, pickle.UnpicklingError, re.error),
)
"""What PEFT raises when an adapter and a model do not fit."""
_NAME = "default"


@dataclass(frozen=True)
class Adapter:
    """An adapter that the study names."""

    path: str
    """The path or hub id, as it is given."""
    folder: Path
    """The folder of its files."""
    commit: str | None = None
    """The commit on the hub."""
    digest: str | None = None
    """The digest of a folder's content."""


def attach(network: PreTrainedModel, adapter: Adapter, config: dict[str, Any]) -> PeftModelForCausalLM:
    """Put an adapter on a model, active and in evaluation mode.

    Args:
        network: The base; it is changed in place.
        adapter: The adapter.
        config: Its configuration, as its file holds it. Nothing is loaded by the names of models and classes in it.

    Returns:
        PEFT's model.

    Raises:
        StudyError: The configuration has settings that PEFT does not know, or the adapter's tensors are not just those
            that the model takes, or not finite.
    """
    model = PeftModelForCausalLM(network, _peft_config(adapter, config), _NAME)
    _load(model, adapter)
    return model.eval()


def _peft_config(adapter: Adapter, config: dict[str, Any]) -> PeftConfig:
    """Build PEFT's configuration without what names other models or code. Raise StudyError for unknown settings."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]]
    known = {field.name for field in dataclasses.fields(kind) if field.init}
    unknown = [key for key, value in config.items() if key not in known and key != "runtime_config" and value]
    if unknown:
        raise StudyError(
            f"{adapter.path}: {ADAPTER_CONFIG}: `{unknown[0]}` is not known to the installed PEFT; upgrade PEFT, or "
            "remove the key if the adapter was trained without it"
        )
    settings = {key: value for key, value in config.items() if key in known and key not in _FOREIGN}
    if isinstance(settings.get("init_lora_weights"), (str, bool)):
        changes_base = settings["init_lora_weights"] in CHANGING_STARTS
        settings |= {} if changes_base else {"init_lora_weights": True}  # it is overwritten by the adapter's weights
    settings |= {"task_type": "CAUSAL_LM", "inference_mode": True}
    return kind(**{key: value for key, value in settings.items() if key not in _PREPARATIONS})


def _load(model: PeftModelForCausalLM, adapter: Adapter) -> None:
    """Load an adapter's weights. Raise StudyError unless they are just those that the model takes, and finite.

    PEFT says nothing of missing and surplus tensors. So the model's are NaN before, and none may be NaN afterwards.
    """
    for name, tensor in _read_weights(adapter).items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise StudyError(f"{adapter.path}: tensor {name} has values that are not finite numbers; {OTHER_BASE}")
    with torch.no_grad():
        for tensor in get_peft_model_state_dict(model, save_embedding_layers=False).values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
    renamed = getattr(model.get_base_model(), "_checkpoint_conversion_mapping", None)
    try:
        found = model.load_adapter(str(adapter.folder), _NAME, key_mapping=renamed)
    except KeyError as error:
        raise StudyError(f"{adapter.path}: tensor {error.args[0]} is missing; {OTHER_BASE}") from None
    if found.unexpected_keys:
        raise StudyError(f"{adapter.path}: {_listed(found.unexpected_keys)} not in the model; {OTHER_BASE}")
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing = [name for name, tensor in loaded.items() if tensor.is_floating_point() and tensor.isnan().any()]
    if missing:
        raise StudyError(f"{adapter.path}: {_listed(missing)} missing; {OTHER_BASE}")


def _read_weights(adapter: Adapter) -> dict[str, Tensor]:
    safe = adapter.folder / SAFE_WEIGHTS
    if safe.is_file():
        return load_file(safe)
    found = torch.load(adapter.folder / PICKLED_WEIGHTS, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise StudyError(f"{adapter.path}: {PICKLED_WEIGHTS} does not hold tensors by name; save the adapter again")
    return found


def merged_model(model: PeftModelForCausalLM) -> PreTrainedModel:
    """Merge an adapter into the weights. Embeddings that were tied stay tied only if they are still equal.

    A weight that two modules share is merged into each of them apart, because PEFT would change it for both.

    Args:
        model: PEFT's model; it is of no use afterwards.

    Returns:
        The model without PEFT's modules.
    """
    network: PreTrainedModel = model.get_base_model()
    configs = [network.config, network.config.get_text_config()]
    was_tied = [getattr(config, "tie_word_embeddings", False) for config in configs]
    _untie(network)
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    embedding, head = merged.get_input_embeddings(), merged.get_output_embeddings()
    equal = head is not None and torch.equal(embedding.weight, head.weight)
    for config, tied in zip(configs, was_tied, strict=True):
        if tied:
            config.tie_word_embeddings = equal
    if any(was_tied) and equal:
        head.weight = embedding.weight
    return merged.eval()


def _untie(network: nn.Module) -> None:
    """Give every module parameters of its own."""
    seen: set[int] = set()
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
            seen.add(id(parameter))


@contextmanager
def explained(adapter: Adapter, what: str, remedy: str) -> Iterator[None]:
    """Turn what PEFT raises while the block lasts into a StudyError, and silence its warnings.

    Args:
        adapter: The adapter that the block is about.
        what: The predicate of the message, for instance "cannot be merged".
        remedy: What to do.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (StudyError, torch.OutOfMemoryError):
        raise
    except _FAULTS as error:
        text = str(error)
        if wrong := re.search(r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", text, re.DOTALL):
            name, its, own = wrong.groups()
            text = f"tensor {name} is {its} in the file and {own} in the model"
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise StudyError(f"{adapter.path}: the adapter {what}: {first.rstrip('.')}; {remedy}") from None


def _listed(names: list[str]) -> str:
    """Name the first tensors of a list, and count the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} of its tensors ({', '.join(names[:3])}{more}) {'is' if len(names) == 1 else 'are'}"
