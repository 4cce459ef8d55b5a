"""Causal language models and tokenizers: load, save, find the decoder blocks, read and edit the residual stream."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlgen.adapter_folder import is_adapter
from rlgen.errors import StudyError

REFERENCE = "reference.json"
"""In an adopted model's folder: a `Reference`."""

ResidualEdit = Callable[[Tensor], Tensor]
"""From the residual stream after a block, [batch, position, d], to what takes its place."""


@dataclass(frozen=True)
class Reference:
    """Where a model's files are, and what they may do."""

    path: str
    """A folder, or a hub id."""
    revision: str | None = None
    """On the hub: the commit."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may be run."""
    allow_pickle: bool = False
    """Whether weights may be other than safetensors."""
    digest: str | None = None
    """Of a folder's content."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` is given beside the path."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


def locate(path: Path) -> Reference:
    """What a study's model folder stands for: itself, or what it refers to."""
    reference = path / REFERENCE
    return Reference(**json.loads(reference.read_text())) if reference.is_file() else Reference(str(path))


def load_config(path: Path) -> PreTrainedConfig:
    """A model's configuration. Raises StudyError if there is none at `path`."""
    where = locate(path)
    try:
        return AutoConfig.from_pretrained(where.path, **where.arguments)
    except (OSError, ValueError) as error:
        raise StudyError(f"{where.path}: no model configuration can be loaded from there: {error}") from None


def load_model(path: Path, dtype: str = "auto") -> PreTrainedModel:
    """Load a causal LM for inference, on the GPU if there is one. Raises StudyError if there is none at `path`."""
    where = locate(path)
    safe = None if where.allow_pickle else True
    try:
        # a folder, so that what loads a model again by its name (TRL's reference, vLLM) loads these very files
        folder = _folder(where)
        if is_adapter(Path(folder)):  # transformers would load the base that its configuration names
            raise StudyError(
                f"{where.path}: holds a PEFT adapter (adapter_config.json), which is no model of its own; give it as "
                "the `path` of an arm, or merge it into its base and give the folder of the merged model"
            )
        model = AutoModelForCausalLM.from_pretrained(folder, **where.arguments, dtype=dtype, use_safetensors=safe)
    except (OSError, ValueError) as error:
        raise StudyError(f"{where.path}: no causal LM can be loaded from there: {error}") from None
    return model.to(device()).eval()


def _folder(where: Reference) -> str:
    """The folder of a model's files, which for one on the hub are fetched into its cache."""
    from huggingface_hub import snapshot_download

    if Path(where.path).is_dir():
        return where.path
    weights = ["*.safetensors", "*.bin"] if where.allow_pickle else ["*.safetensors"]
    wanted = [*weights, "*.json", "*.txt", "*.model", "*.jinja", *(["*.py"] if where.trust_remote_code else [])]
    return snapshot_download(where.path, revision=where.revision, allow_patterns=wanted)


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, padding on the left; a missing pad token becomes the end token.

    Raises StudyError if there is none at `path`, or it has neither token.
    """
    where = locate(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where.path, **where.arguments)
    except (OSError, ValueError) as error:
        raise StudyError(f"{where.path}: no tokenizer can be loaded from there: {error}") from None
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise StudyError(
                f"{where.path}: its tokenizer has neither a pad nor an end token, so sequences can be neither batched "
                "nor ended; set `pad_token` and `eos_token` in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def vocabulary_difference(vocabulary: dict[str, int], other: dict[str, int], names: tuple[str, str]) -> str | None:
    """The first token that has another id in the other vocabulary, in words; None if there is none.

    The other one may have more tokens. `names` are what the vocabularies are of.
    """
    for token, index in vocabulary.items():
        if other.get(token) != index:
            found = f"id {other[token]}" if token in other else "unknown"
            return f"{token!r} is id {index} in {names[0]} and {found} in {names[1]}"
    return None


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write model and tokenizer in Hugging Face format, the same on every machine; `state` in place of its weights."""
    model.save_pretrained(folder, state_dict=state)
    if state is not None:  # transformers writes down the precision of the model's own weights
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.init_kwargs.pop("local_files_only", None)  # says how it was loaded, which follows from the environment
    tokenizer.save_pretrained(folder)


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The model's decoder blocks: its longest list of modules that are all of one kind."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len({type(b) for b in m}) == 1]
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    fitting = [m for m in lists if depth is None or len(m) == depth]
    if not fitting:
        raise StudyError(
            f"{type(model).__name__}: no list of {depth} decoder blocks found; the architecture is not known"
        )
    return max(fitting, key=len)


def block(model: nn.Module, layer: int) -> nn.Module:
    """The block after which layer `layer` (1 is the first) is read. Raises StudyError if there is none."""
    blocks = decoder_blocks(model)
    if not 1 <= layer <= len(blocks):
        raise StudyError(f"activations.layers: {layer}; this model has blocks 1 to {len(blocks)}")
    return blocks[layer - 1]


@contextlib.contextmanager
def edited(model: nn.Module, layer: int, edit: ResidualEdit) -> Iterator[None]:
    """While the block lasts, `edit` replaces the residual stream after decoder block `layer`."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    handle = block(model, layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Stop(Exception):
    """Ends a forward pass after the last wanted block."""


@torch.no_grad()
def residuals(model: PreTrainedModel, layers: list[int], **inputs: Any) -> Tensor:
    """Residual stream after each of `layers`, [batch, position, layers, d]; later blocks are not computed.

    `inputs` are the model's; a cache among them (`past_key_values`) is continued.
    """
    found: dict[int, Tensor] = {}
    last = max(layers)

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found[layer] = output[0] if isinstance(output, tuple) else output
            if layer == last:
                raise _Stop

        return hook

    handles = [block(model, layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        with contextlib.suppress(_Stop):
            model(**inputs, use_cache="past_key_values" in inputs)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([found[layer] for layer in layers], dim=2)
