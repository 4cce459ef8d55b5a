"""Causal language models and tokenizers: load, save, find the decoder blocks, read and edit the residual stream."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
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
from rlgen.weights import MODEL_JSON, TOKENIZER_JSON, brief, file_faults, json_faults, load_faults

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


class ModelFaults(StudyError):
    """What is wrong with a model's files."""

    def __init__(self, path: str, faults: list[str]) -> None:
        super().__init__(f"{path}: {'; '.join(faults)}")
        self.faults = faults
        """One line for each fault, without the path."""


def locate(path: Path | Reference) -> Reference:
    """Return what a study's model folder stands for: itself, or what it refers to."""
    if isinstance(path, Reference):
        return path
    reference = path / REFERENCE
    if not reference.is_file():
        return Reference(str(path))
    try:
        return Reference(**json.loads(reference.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise StudyError(f"{reference}: no reference to a model ({error}); adopt the model again") from None


def load_config(path: Path | Reference) -> PreTrainedConfig:
    """Load a model's configuration. Raises StudyError if there is none at `path`, or it cannot be read."""
    where = locate(path)
    with _loading(where, "no model configuration can be loaded from there"):
        folder = Path(where.path)
        if folder.is_dir() and not (folder / "config.json").is_file():
            _refuse_adapter(where, folder)
            raise StudyError(f"{where.path}: config.json is missing; give a folder that holds a model")
        _refuse(where, json_faults(folder, MODEL_JSON))
        return AutoConfig.from_pretrained(where.path, **where.arguments)


def _refuse_adapter(where: Reference, folder: Path) -> None:
    """Raise StudyError if a folder holds an adapter."""
    if is_adapter(folder):
        raise StudyError(
            f"{where.path}: holds a PEFT adapter (adapter_config.json), which is no model of its own; give it as "
            "the `path` of an arm, or merge it into its base and give the folder of the merged model"
        )


def load_model(path: Path | Reference, dtype: str = "auto") -> PreTrainedModel:
    """Load a causal LM for inference, on the GPU if there is one.

    Args:
        path: A folder in Hugging Face format, a study's model, or a reference to one of these or to the hub.
        dtype: The precision of the weights; `auto` is that in which they were saved.

    Returns:
        The model, in which every weight came from its files.

    Raises:
        StudyError: There is no causal LM, a file is damaged, or a tensor is missing, of another shape than the
            configuration says, or has no place in the model. It names the folder, the file and the tensor.
    """
    where = locate(path)
    safe = None if where.allow_pickle else True
    with _loading(where, "no causal LM can be loaded from there"):
        # a folder, so that what loads a model again by its name (TRL's reference, vLLM) loads these very files
        folder = _folder(where)
        _refuse_adapter(where, Path(folder))  # transformers would load the base that its configuration names
        _refuse(where, file_faults(Path(folder), where.allow_pickle))
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            **where.arguments,
            dtype=dtype,
            use_safetensors=safe,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `load_faults` names them
        )
    _refuse(where, load_faults(model, info))
    return model.to(device()).eval()


@contextlib.contextmanager
def _loading(where: Reference, failed: str) -> Iterator[None]:
    """Turn whatever a library raises of a model's files into a StudyError that names the folder."""
    try:
        yield
    except (StudyError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # files of a model can be wrong in every way, and libraries check few of them
        kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        raise StudyError(f"{where.path}: {failed}: {kind}{brief(error)}") from None


def _refuse(where: Reference, faults: list[str]) -> None:
    if faults:
        raise ModelFaults(where.path, faults)


def _folder(where: Reference) -> str:
    """The folder of a model's files, which for one on the hub are fetched into its cache."""
    from huggingface_hub import snapshot_download

    if Path(where.path).is_dir():
        return where.path
    weights = ["*.safetensors", "*.bin"] if where.allow_pickle else ["*.safetensors"]
    wanted = [*weights, "*.json", "*.txt", "*.model", "*.jinja", *(["*.py"] if where.trust_remote_code else [])]
    return snapshot_download(where.path, revision=where.revision, allow_patterns=wanted)


def load_tokenizer(path: Path | Reference) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, padding on the left; a missing pad token becomes the end token.

    Raises StudyError if there is none at `path`, its files are damaged, or it has neither token.
    """
    where = locate(path)
    with _loading(where, "no tokenizer can be loaded from there"):
        _refuse(where, json_faults(Path(where.path), TOKENIZER_JSON))
        tokenizer = AutoTokenizer.from_pretrained(where.path, **where.arguments)
    if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()):
        raise StudyError(
            f"{where.path}: its tokenizer knows no tokens but special ones; copy the tokenizer's files "
            "(tokenizer.json, or vocab.json and merges.txt, or tokenizer.model) from where the model was made"
        )
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
    """Write model and tokenizer in Hugging Face format, the same on every machine.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: Where to.
        state: Weights to write in place of the model's own. They are left alone.
    """
    given = None if state is None else dict(state)  # transformers empties what it is given
    model.save_pretrained(folder, state_dict=given)
    if state is not None:  # transformers writes down the precision of the model's own weights
        floats = Counter(weight.dtype for weight in state.values() if weight.is_floating_point())
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = str(floats.most_common(1)[0][0]).removeprefix("torch.")
        if _untied(model, state):
            config["tie_word_embeddings"] = False
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.init_kwargs.pop("local_files_only", None)  # says how it was loaded, which follows from the environment
    tokenizer.save_pretrained(folder)


def longest_input(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the most tokens that a model can read, as lm-evaluation-harness resolves it."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import resolve_max_length

    return int(resolve_max_length(model.config, tokenizer, default=HFLM._DEFAULT_MAX_LENGTH))


def _untied(model: PreTrainedModel, state: Mapping[str, Tensor]) -> bool:
    """Whether weights that the architecture can tie are different ones, as after an adapter of the output layer."""
    pairs = getattr(model, "_tied_weights_keys", None) or {}
    pairs = pairs.items() if isinstance(pairs, Mapping) else ()
    return any(a in state and b in state and not torch.equal(state[a], state[b]) for a, b in pairs)


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the model's decoder blocks: its longest list of modules that are all of one kind.

    A hybrid model has blocks of several kinds: then it is the first list that has as many as the configuration says.
    Raises StudyError if there is no such list.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    config = getattr(model, "config", None)
    depth = getattr(config.get_text_config() if config else None, "num_hidden_layers", None)
    fitting = [m for m in lists if depth is None or len(m) == depth]
    alike = [m for m in fitting if len({type(b) for b in m}) == 1]
    if not alike and (depth is None or not fitting):
        raise StudyError(
            f"{type(model).__name__}: no list of {depth} decoder blocks found; the architecture is not known"
        )
    return max(alike, key=len) if alike else fitting[0]


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
