"""Check a model's files before they are loaded, and the report that transformers gives of loading them.

transformers fills what is missing with random numbers and goes on with a warning. Here every such thing is a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MODEL_JSON = ("config.json", "generation_config.json")
TOKENIZER_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of weights, as safetensors names them, of a model that is not quantised."""
_HARMLESS = r"(^|\.)(v_head|value_head|mtp)[._]"
"""Tensors that are no part of the language model: a critic's head, layers that predict several tokens at a time."""
MOST_NAMED = 3
"""Tensors or tokens that one message names."""
_LONGEST = 400
"""Characters of a library's error that a message repeats."""


def file_faults(folder: Path, allow_pickle: bool = False) -> list[str]:
    """Return what is wrong with a model's files: one line for each fault, which names the file and the tensors.

    JSON files must be readable, and shards must hold what their index says. Only headers of the weights are read.

    Args:
        folder: A folder in Hugging Face format.
        allow_pickle: Whether weights other than safetensors may be read.

    Returns:
        The faults, none if everything is right. A missing configuration is not looked for.
    """
    if faults := json_faults(folder, MODEL_JSON):
        return faults
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return list(_file_faults(SINGLE, _types(folder / SINGLE), _quantised(folder)))
    if (folder / INDEX).is_file():
        return list(_shard_faults(folder, INDEX))
    if allow_pickle and (folder / PICKLED).is_file():
        return list(_file_faults(PICKLED, _types(folder / PICKLED), _quantised(folder)))
    if allow_pickle and (folder / PICKLED_INDEX).is_file():
        return list(_shard_faults(folder, PICKLED_INDEX))
    return [_no_weights(folder, allow_pickle)]


def json_faults(folder: Path, names: Iterable[str]) -> list[str]:
    """Return which of some JSON files, if they are there, hold no JSON object: one line for each."""
    return [fault for name in names if (folder / name).exists() and (fault := _json_fault(folder / name))]


def load_faults(model: PreTrainedModel, info: Mapping[str, Any]) -> list[str]:
    """Return what transformers' loading report says is wrong: one line for each kind of fault, which names tensors.

    Args:
        model: The model that was loaded.
        info: What `from_pretrained(..., output_loading_info=True)` returned with it.

    Returns:
        The faults, none if every weight came from the files and every tensor of the files was used.
    """
    faults = []
    if missing := sorted(info["missing_keys"]):
        faults.append(
            f"{quoted(missing)} {_is(missing)} missing, and would be filled with random numbers; "
            "save the model again with all of its weights"
        )
    if mismatched := sorted(info["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        others = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        faults.append(
            f"`{name}`{others} has the shape {list(found)} in the weights and {list(wanted)} by config.json; "
            "use the config.json that belongs to the weights"
        )
    if unexpected := _harmful(model, info["unexpected_keys"]):
        faults.append(
            f"{quoted(unexpected)} {_is(unexpected)} in the weights and not in a {type(model).__name__} with this "
            "config.json, so the model would run without it; use the config.json that belongs to the weights"
        )
    faults += [" ".join(str(message).split()) for message in info.get("error_msgs") or []]
    return faults


def brief(error: Exception) -> str:
    """Return an error's text in one line, without lists of all architectures, and with the options that rlgen has."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return (
            "Python code that comes with it would have to be run; if you trust who made it, set `trust_remote_code: "
            "true` in the study, or give `--trust-remote-code` on the command line"
        )
    text = re.split(r"\.? (?:Model type should|Should contain) (?:be )?one of", text)[0]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _harmful(model: PreTrainedModel, keys: Iterable[str]) -> list[str]:
    """Tensors of the files that the model has no place for, though it should."""
    buffers = {name for name, _ in model.named_buffers()}  # some were saved once, and are computed today
    config = model.config.get_text_config()
    depth, beyond = getattr(config, "num_hidden_layers", 0), getattr(config, "num_nextn_predict_layers", 0) or 0
    extra = {f".layers.{depth + index}." for index in range(beyond)}
    prefix = f"{model.base_model_prefix}."
    return sorted(
        key
        for key in keys
        if not re.search(_HARMLESS, key)
        and key not in buffers
        and f"{prefix}{key}" not in buffers
        and not any(layer in f".{key}" for layer in extra)
    )


def _json_fault(path: Path) -> str | None:
    try:
        found = json.loads(path.read_bytes().decode())
    except OSError as error:
        return f"{path.name}: cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        empty = path.stat().st_size == 0
        reason = "the file is empty" if empty else f"no JSON ({' '.join(str(error).split())})"
        return f"{path.name}: {reason}; copy it again from where the model was made"
    if not isinstance(found, dict):
        return f"{path.name}: holds a {type(found).__name__} where an object is expected; copy it again"
    return None


def _quantised(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and "quantization_config" in json.loads(path.read_bytes())


def _file_faults(name: str, types: dict[str, str] | str, quantised: bool) -> Iterator[str]:
    """Yield the faults of one file of weights; `types` are those of its tensors, as `_types` returns them."""
    if isinstance(types, str):
        yield types
        return
    if not types:
        yield f"{name}: holds no tensor; copy it again from where the model was made"
    if odd := [] if quantised else sorted(key for key, kind in types.items() if not _plausible(key, kind)):
        yield (
            f"{name}: {quoted(odd)} {_is(odd)} of the type {types[odd[0]]}, and weights are floating-point numbers "
            "unless config.json has a `quantization_config`; save the model again as bfloat16 or float32"
        )


def _plausible(key: str, kind: str) -> bool:
    """Whether a tensor may have a type: masks and positions that were saved with the weights are no weights."""
    return kind in _FLOATS or (
        key.endswith((".bias", ".masked_bias", "position_ids")) and kind in ("BOOL", "U8", "I64")
    )


def _shard_faults(folder: Path, index: str) -> Iterator[str]:
    """Faults of an index and of the files it names."""
    if fault := _json_fault(folder / index):
        yield fault
        return
    places = json.loads((folder / index).read_bytes()).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        yield f"{index}: has no `weight_map` from tensors to files; copy it again from where the model was made"
        return
    quantised = _quantised(folder)
    seen: dict[str, str] = {}
    for name in sorted(set(places.values())):
        wanted = sorted(key for key, place in places.items() if place == name)
        if Path(name).name != name or not (folder / name).is_file():
            yield f"{name}: no such file, and {index} says that it holds {quoted(wanted)}; copy it again"
            continue
        types = _types(folder / name)
        yield from _file_faults(name, types, quantised)
        if isinstance(types, str):
            continue
        if absent := [key for key in wanted if key not in types]:
            yield f"{name}: {quoted(absent)} {_is(absent)} missing, though {index} says otherwise; copy both again"
        if twice := sorted(set(types) & set(seen)):
            yield f"{name}: {quoted(twice)} {_is(twice)} in {seen[twice[0]]} too; save the model again"
        seen |= dict.fromkeys(types, name)


def _types(path: Path) -> dict[str, str] | str:
    """The type of every tensor in a file by its name, as safetensors calls it; a fault if the file cannot be read."""
    if not path.is_file():
        return f"{path.name}: no file can be read there; copy it again from where the model was made"
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        loaded = torch.load(path, map_location="meta", weights_only=True)
        return {key: _TORCH.get(value.dtype, str(value.dtype)) for key, value in loaded.items()}
    except Exception as error:  # a damaged file makes safetensors and unpickling fail in every way
        if isinstance(error, MemoryError):
            raise
        return f"{path.name}: {_unreadable(path, error)}; copy it again from where the model was made"


def _unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        begin = file.read(64)
    if not begin:
        return "the file is empty"
    if begin.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer and not the weights (`git lfs pull` fetches them)"
    size = f"{path.stat().st_size:,} bytes"
    if isinstance(error, SafetensorError):
        return f"truncated or damaged, {size} ({' '.join(str(error).split())})"
    return f"cannot be read, {size} ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


_TORCH = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"} | {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int64: "I64",
}


def _no_weights(folder: Path, allow_pickle: bool) -> str:
    pickled = sorted(path.name for path in folder.glob("*.bin")) if folder.is_dir() else []
    if pickled and not allow_pickle:
        return (
            f"no weights in safetensors there, and unpickling {pickled[0]} can run any code; convert them, or allow "
            "it (`allow_pickle: true` in the study, `--allow-pickle` on the command line) if you trust who made them"
        )
    expected = " or ".join([SINGLE, INDEX, *([PICKLED] if allow_pickle else [])])
    return f"no weights there ({expected}); copy the model again from where it was made"


def quoted(keys: list[str]) -> str:
    """Return the first tensors' names, and how many more there are."""
    named = ", ".join(f"`{key}`" for key in keys[:MOST_NAMED])
    return named + (f" and {len(keys) - MOST_NAMED} more tensors" if len(keys) > MOST_NAMED else "")


def _is(keys: list[str]) -> str:
    return "is" if len(keys) == 1 else "are"
