"""Check a model before it is trusted: its files, its numbers, its tokens, and by forward passes its answers.

The stage that adopts a model runs these checks, and `rlgen model check` shows them. The differences that they allow
are in `rlgen.forward_checks`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.errors import StudyError
from rlgen.forward_checks import IN_TURN, Probe, documents_apart, tried
from rlgen.models import Reference, load_config, load_model, load_tokenizer, locate
from rlgen.sampling import end_tokens
from rlgen.weights import MOST_NAMED, quoted

log = logging.getLogger("rlgen")

_ROLES = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")
_NO_TEXT = ("image_token", "audio_token", "video_token")
"""Tokens that stand for what is no text: a model for text alone may have no embedding of them."""
_LOADED = {"configuration": load_config, "weights complete": load_model, "tokenizer loads": load_tokenizer}
"""What is loaded, by the name of the check."""


@dataclass(frozen=True)
class Checked:
    """What one check found."""

    name: str
    fault: str | None = None
    """What is wrong and what to do, in one line; None if nothing is."""
    note: bool = False
    """Whether the fault matters to none of the study's stages."""


def check_model(path: Path | Reference, separate_documents: bool = True) -> Iterator[Checked]:
    """Load a model as the stages do and check it.

    After a failed check, the checks that build on it are left out. So each fault is reported once.

    Args:
        path: A folder in Hugging Face format, a study's model, or a reference to one of these or to the hub.
        separate_documents: Whether the corpus keeps the documents of a row apart. If not, that a model cannot is a
            note and no fault.

    Yields:
        One result for every check, or several for a check with several faults.
    """
    where = locate(path)
    found: dict[str, Any] = {}
    for name, load in _LOADED.items():
        try:
            found[name] = load(where)
            yield Checked(name)
        except StudyError as error:
            yield from _results(name, getattr(error, "faults", [str(error).removeprefix(f"{where.path}: ")]))
            if load is load_config:
                return
    if len(found) == len(_LOADED):
        yield from check_loaded(found["weights complete"], found["tokenizer loads"], separate_documents)


def named_model(
    name: str, revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> Reference:
    """Return the model that a person names. Silence the libraries, because each check prints one line of its own.

    Args:
        name: A folder in Hugging Face format, a study's model, or a hub id.
        revision: On the hub.
        trust_remote_code: Whether Python code that comes with the model may be run. What the folder's reference.json
            says about that is ignored: only the person can consent.
        allow_pickle: Whether weights may be other than safetensors.

    Raises:
        StudyError: `name` is neither a folder nor can be a hub id.
    """
    path = Path(name).expanduser()
    hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not path.exists()
    if not name or not (path.is_dir() or hub_id):
        raise StudyError(f"{name}: no such folder; name a model's folder or its id on the hub")
    if hub_id:
        log.info("%s: no such folder here, so it is looked up on the hub", name)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = locate(path) if path.is_dir() else Reference(name)
    return replace(
        found,
        revision=revision or found.revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )


def refuse_faults(path: Path, separate_documents: bool = False) -> list[str]:
    """Raise StudyError if a model has a fault, and return its notes. The arguments are those of `check_model`."""
    found = list(check_model(path, separate_documents))
    if faults := [result.fault for result in found if result.fault and not result.note]:
        remedy = f"`rlgen model check {locate(path).path}` shows all checks"
        raise StudyError(f"{locate(path).path}: {'; '.join(faults)}; {remedy}")
    return [f"{result.name}: {result.fault}" for result in found if result.fault]


@torch.no_grad()
def check_loaded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, separate_documents: bool = True
) -> Iterator[Checked]:
    """Check a model and its tokenizer that are loaded already; see `check_model`."""
    finite, tokens = list(weight_faults(model)), list(token_faults(model, tokenizer))
    yield from _results("weights finite", finite)
    yield from _results("tokens within the embedding", tokens)
    if finite:
        return
    probe = Probe(model, tokenizer)
    for name, check in IN_TURN.items():
        fault = tried(check, probe)
        yield Checked(name, fault)
        if fault:
            return
    fault = tried(documents_apart, probe)
    yield Checked("packed documents apart", fault, note=not separate_documents)


def weight_faults(model: PreTrainedModel) -> Iterator[str]:
    """Tensors with numbers that are not finite, and tied weights that are not the same."""
    bad = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        yield f"NaN or infinite numbers in {quoted(bad)}; train or convert the model again"
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if tied and head is not None and not bad and not torch.equal(head.weight, embedding.weight):
        yield (
            "config.json says `tie_word_embeddings: true`, and the weights hold an output layer that is not the "
            "embedding, so that libraries read different models; set it to false, or save the model again"
        )


def token_faults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Token ids for which the model has no embedding, or which no text becomes."""
    rows = model.get_input_embeddings().weight.shape[0]
    head = model.get_output_embeddings()
    scored = rows if head is None else head.weight.shape[0]
    have = f"the model has embeddings of {rows} tokens" if rows <= scored else f"the model scores {scored} tokens"
    rows = min(rows, scored)
    remedy = "resize the embedding to the tokenizer, or use the tokenizer that belongs to the model"
    roles = {role: getattr(tokenizer, f"{role}_token_id", None) for role in _ROLES}
    named = {f"the tokenizer's {role} token": index for role, index in roles.items() if index is not None}
    far = {what: index for what, index in named.items() if index >= rows}
    for what, index in far.items():
        yield f"{what}, {tokenizer.convert_ids_to_tokens(index)!r}, has id {index} and {have}; {remedy}"
    no_text = {getattr(tokenizer, name, None) for name in _NO_TEXT}
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    beyond = [(i, token) for i, token in vocabulary if i >= rows and i not in far.values() and token not in no_text]
    if beyond:
        more = f" and {len(beyond) - MOST_NAMED} more" if len(beyond) > MOST_NAMED else ""
        words = ", ".join(f"{token!r} (id {index})" for index, token in beyond[:MOST_NAMED])
        yield f"the tokenizer knows {words}{more}, and {have}; {remedy}"
    padding = getattr(model.generation_config, "pad_token_id", None)
    if isinstance(padding, int) and padding >= rows:
        yield f"generation_config.json: `pad_token_id` is {padding} and {have}; write the id of a token that exists"
    if (ends := end_tokens(model, tokenizer)) and min(ends) >= rows and roles["eos"] is None:
        yield f"generation_config.json: `eos_token_id` is {min(ends)} and {have}, so that no answer ends; correct it"
    if not set(tokenizer("The quick brown fox: 0123456789\n")["input_ids"]) - {
        roles["unk"],
        roles["bos"],
        roles["eos"],
    }:
        yield "the tokenizer knows no letter, digit or space; use the tokenizer that belongs to the model"


def _results(name: str, faults: list[str]) -> Iterator[Checked]:
    yield from [Checked(name, fault) for fault in faults] or [Checked(name)]
