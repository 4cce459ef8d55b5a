"""PEFT adapters (LoRA and its relatives) that exist already: merged into the base, checked and stored as models.

All arithmetic is in float32, whatever the base is stored in. So a difference between the adapter and the merged model
is a fault and not rounding. What rounding to the base's precision changes is measured afterwards and written down.
"""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.adapter_folder import (
    ADAPTER_CONFIG,
    MERGE_YOURSELF,
    PICKLED_WEIGHTS,
    adapter_fault,
    is_adapter,
    read_adapter_config,
)
from rlgen.errors import StudyError
from rlgen.models import load_model, load_tokenizer, locate, save_model, vocabulary_difference
from rlgen.posttrain.merging import OTHER_BASE, Adapter, attach, explained, merged_model
from rlgen.stage import Workspace, write_json

log = logging.getLogger("rlgen")

ADAPTER_JSON = "adapter.json"
"""In a merged model's folder: where the adapter came from, and the largest differences of logits."""
SEQUENCES, LENGTH = 4, 32
"""Token sequences on which logits are compared, and their length."""
TOLERANCE = 1e-4
"""The merged model's float32 logits may differ from the adapter's by this share of the largest logit."""


def find_adapter(path: str, revision: str | None, digest: str | None) -> Adapter | None:
    """Find whether a path or hub id is an adapter's.

    Args:
        path: A folder or a hub id.
        revision: Commit, tag or branch on the hub.
        digest: The digest of the folder's content; None for a hub id.

    Returns:
        The adapter; its files are fetched from the hub if it is there. None if it is no adapter, or not there at all.

    Raises:
        StudyError: It is an adapter on the hub, and its files cannot be fetched.
    """
    if digest is not None:
        folder = Path(path)
        return Adapter(path, folder.resolve(), digest=digest) if is_adapter(folder) else None
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        commit = Path(hf_hub_download(path, ADAPTER_CONFIG, revision=revision)).parent.name
    except (OSError, ValueError):  # it has no such file, or it is not there, which loading it as a model will tell
        return None
    wanted = ["*.safetensors", PICKLED_WEIGHTS, "pytorch_model*.bin", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        folder = Path(snapshot_download(path, revision=commit, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: the adapter's files cannot be fetched from the hub: {error}; try again") from None
    return Adapter(path, folder, commit=commit)


def adopt_adapter(adapter: Adapter, base: Path | None, allow_pickle: bool, work: Workspace, folder: Path) -> None:
    """Write the base with an adapter merged into it, as a model of its own. Do nothing if an earlier run did it.

    Args:
        adapter: The adapter.
        base: The folder of the study's base.
        allow_pickle: Whether the adapter's weights may be pickled.
        work: The stage's workspace.
        folder: Where to write the model and adapter.json.

    Raises:
        StudyError: The model is no arm, the adapter cannot be used, it does not fit the base, or the merged model does
            not give the adapter's logits.
    """
    if (folder / ADAPTER_JSON).is_file():
        return
    if base is None:
        raise StudyError(
            f"{adapter.path}: a PEFT adapter is no model of its own, so it can only be an arm, which is merged into "
            "the study's base; merge it into its own base yourself, and give the folder of the merged model"
        )
    fault = adapter_fault(adapter.folder, allow_pickle)
    if fault:
        raise StudyError(f"{adapter.path}: {fault}")
    made = work.scratch / "merged"
    if made.exists():
        shutil.rmtree(made)
    note = _merge(adapter, base, made)
    for file in sorted(made.iterdir()):
        file.replace(folder / file.name)
    write_json(folder / ADAPTER_JSON, note)


def _merge(adapter: Adapter, base: Path, made: Path) -> dict[str, Any]:
    """Merge, check and save; return what adapter.json says."""
    config = read_adapter_config(adapter.folder)
    _compare_names(adapter, config, base)
    network = load_model(base)
    tokenizer = _tokenizer(adapter, base, network)
    _refuse_base(adapter, network)
    dtype, dtypes = network.dtype, {name: tensor.dtype for name, tensor in network.state_dict().items()}
    network.float()
    ids = _sequences(network, config)
    with explained(adapter, "cannot be put on the study's base", OTHER_BASE):
        plain = _logits(network, ids)
        model = attach(network, adapter, config)
        active = _logits(model, ids)
    with explained(adapter, "cannot be merged into the study's base", "train it without what cannot be merged"):
        merged = merged_model(model)
    changed = _difference(active, plain)
    difference = _difference(_logits(merged, ids), active)
    _judge(adapter, float(active.abs().max()), changed, difference)
    _cast(merged, dtypes, dtype)
    with explained(adapter, "was merged, but the model cannot be saved", "mend what it names"):
        save_model(merged, tokenizer, made)
    log.info("%s: merged; the logits are the adapter's within %.2g", adapter.path, difference)
    rounded = _difference(_logits(_reloaded(adapter, merged, made), ids), active)
    if rounded >= changed / 2 > 0:
        log.warning(
            "%s: rounding the merged weights to %s changes the logits by up to %.3g, and the adapter by no more than "
            "%.3g; a base in float32 would keep what the adapter learnt",
            *(adapter.path, _name_of(dtype), rounded, changed),
        )
    return {
        "adapter": adapter.path if adapter.commit else str(adapter.folder),
        "commit": adapter.commit,
        "digest": adapter.digest,
        "base": locate(base).path,
        "base_model_name_or_path": config.get("base_model_name_or_path"),
        "peft_type": config["peft_type"],
        "rank": config.get("r"),
        "dtype": _name_of(dtype),
        "largest_logit_difference": {
            "adapter_to_base": _rounded(changed),
            "merged_to_adapter": _rounded(difference),
            "stored_to_adapter": _rounded(rounded),
        },
    }


def _compare_names(adapter: Adapter, config: dict[str, Any], base: Path) -> None:
    """Warn if the adapter names another base. Paths move, so this is no fault."""
    named, here = config.get("base_model_name_or_path"), locate(base).path
    if named and named != here and Path(str(named)).resolve() != Path(here).resolve():
        log.warning("%s: was trained on %s, and is merged into the study's base, %s", adapter.path, named, here)


def _refuse_base(adapter: Adapter, network: PreTrainedModel) -> None:
    """Raise StudyError if nothing can be merged into the base, or a merged copy of it could not be loaded."""
    if getattr(network.config, "quantization_config", None):
        raise StudyError(
            f"{adapter.path}: the base is quantized, so nothing can be merged into it; give it unquantized"
        )
    if type(network).__module__.startswith("transformers_modules"):
        raise StudyError(
            f"{adapter.path}: the base runs Python code of its own, which a merged copy lacks; {MERGE_YOURSELF}"
        )


def _tokenizer(adapter: Adapter, base: Path, network: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Load the adapter's own tokenizer if it has one, else the base's. Raise StudyError if it does not fit the base."""
    of_base = load_tokenizer(base)
    if not any((adapter.folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        return of_base
    found = load_tokenizer(adapter.folder)
    names = ("the base", "the adapter's tokenizer")
    if difference := vocabulary_difference(of_base.get_vocab(), found.get_vocab(), names):
        raise StudyError(f"{adapter.path}: {difference}; an arm must have been trained from the study's base")
    last, rows = max(found.get_vocab().values()), network.get_input_embeddings().weight.shape[0]
    if last >= rows:
        raise StudyError(
            f"{adapter.path}: its tokenizer has tokens up to id {last}, and the base's embedding has {rows} rows; arms "
            "with a resized embedding are not supported, as an arm and the base must have the same tokens"
        )
    return found


def _sequences(network: PreTrainedModel, config: dict[str, Any]) -> Tensor:
    """Return token ids [sequence, position] on which logits are compared: random, and those that were trained alone."""
    rows = network.get_input_embeddings().weight.shape[0]
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None) or LENGTH
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(rows, (SEQUENCES, min(LENGTH, longest)), generator=random)
    trained = config.get("trainable_token_indices") or []
    chosen = sorted({i for part in trained.values() for i in part} if isinstance(trained, dict) else trained)
    places = ids.view(-1)[::2]
    fitting = torch.tensor([i for i in chosen if i < rows][: len(places)], dtype=torch.long)
    places[: len(fitting)] = fitting
    return ids.to(network.device)


@torch.no_grad()
def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return found.float()


def _difference(logits: Tensor, others: Tensor) -> float:
    return float((logits - others).abs().max())


def _judge(adapter: Adapter, largest: float, changed: float, difference: float) -> None:
    """Raise StudyError unless the merged model's logits are the adapter's."""
    if not (math.isfinite(largest) and math.isfinite(changed)):
        raise StudyError(f"{adapter.path}: the base with the adapter gives logits that are not finite; {OTHER_BASE}")
    if not difference <= TOLERANCE * largest:
        raise StudyError(
            f"{adapter.path}: the merged model's logits differ from the adapter's by up to {difference:.3g}, where the "
            f"largest logit is {largest:.3g}; this adapter cannot be merged, so {MERGE_YOURSELF}"
        )
    if changed <= TOLERANCE * largest:
        log.warning("%s: the adapter changes the base's logits by no more than %.3g", adapter.path, changed)


def _cast(model: nn.Module, dtypes: dict[str, torch.dtype], usual: torch.dtype) -> None:
    """Give parameters and buffers the precision that they have in the base."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes.get(name, usual))
    for name, buffer in model.named_buffers():
        if name in dtypes:
            buffer.data = buffer.data.to(dtypes[name])


def _reloaded(adapter: Adapter, merged: nn.Module, made: Path) -> PreTrainedModel:
    """Load the stored model, in float32. Raise StudyError unless its weights are those that were saved, and finite."""
    found = load_model(made)
    loaded, saved = found.state_dict(), merged.state_dict()
    for name in sorted(loaded.keys() | saved.keys()):
        if name not in loaded or name not in saved or not torch.equal(loaded[name], saved[name]):
            raise StudyError(f"{adapter.path}: tensor {name} of the merged model is not stored as it was merged")
        if not loaded[name].isfinite().all():
            raise StudyError(f"{adapter.path}: tensor {name}, merged, is beyond {_name_of(loaded[name].dtype)}'s range")
    return found.float()


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rounded(value: float) -> float:
    """Keep the digits that do not depend on the order of a sum."""
    return float(f"{value:.2g}")
