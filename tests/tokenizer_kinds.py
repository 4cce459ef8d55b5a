"""Small tokenizers of every kind whose tokens depend on what comes before or after, and models for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

SPECIAL = ["<unk>", "<s>", "</s>"]
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789?:.,=-\\{}"


def _sentencepiece() -> Tokenizer:
    """As Llama 2: a space before every text, spaces as letters, bytes for what has no letter."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("▁", "▁"), ("▁", "C"), ("▁", "a"), ("▁a", "b"), ("a", "b"), ("▁", "Q"), ("▁", "4"), (":", "▁C")]
    words = [*SPECIAL, *bytes_, "▁", *CHARACTERS, *("".join(pair) for pair in merges)]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    found = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    found.decoder = decoders.Sequence(strip)
    return found


def _metaspace() -> Tokenizer:
    """As Mistral in its later form: a space before what begins a text, and none after a special token."""
    merges = [("▁", "C"), ("▁", "a"), ("a", "b"), ("▁", "Q"), ("?", "\n"), (":", "▁C")]
    words = [*SPECIAL, "▁", "\n", "é", *CHARACTERS, *("".join(pair) for pair in merges)]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    found = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    found.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return found


def _bytes() -> Tokenizer:
    """As GPT-2, and with merges over any boundary: of a colon and a choice, of line ends, of a mark and a line end."""
    merges = [("Ġ", "C"), (":", "ĠC"), ("Ċ", "Ċ"), ("Ġ", "Ġ"), ("a", "b"), ("Ġ", "ab"), ("?", "Ċ"), ("c", "d")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *alphabet, *("".join(pair) for pair in merges)]
    found = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found.decoder = decoders.ByteLevel()
    return found


def _letters() -> Tokenizer:
    words = [*SPECIAL, " ", "\n", *CHARACTERS]
    found = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    found.decoder = decoders.Fuse()
    return found


def _wrapped(tokenizer: Tokenizer, adds_bos: bool, bos: str | None = "<s>") -> PreTrainedTokenizerFast:
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    named = {} if bos is None else {"bos_token": bos}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<unk>", **named
    )


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "prefix space": lambda: _wrapped(_sentencepiece(), adds_bos=True),
    "prefix space at the first word": lambda: _wrapped(_metaspace(), adds_bos=True),
    "merges": lambda: _wrapped(_bytes(), adds_bos=False, bos=None),
    "merges, BOS": lambda: _wrapped(_bytes(), adds_bos=True),
    "BOS that is not added": lambda: _wrapped(_bytes(), adds_bos=False),
    "letters": lambda: _wrapped(_letters(), adds_bos=False, bos=None),
}

PROMPTS = ["Q: ab?\n", "Q: cd ab:", "Q: e", "<s>Q: ab:", "<s> Q: d?\n", "Q:  ", "ab?\n\n", "Q: C? "]
"""They end in white space, begin with a written BOS, or end within what could be one token."""


def make_model(kind: str, folder: Path) -> Path:
    """Write an untrained two-layer model with a tokenizer of this kind."""
    tokenizer = KINDS[kind]()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _real(ids_BT: torch.Tensor) -> torch.Tensor:
    """Where rows that were padded on the right with the id 0, which no text has at its end, are not padding."""
    return (ids_BT != 0).flip(1).cumsum(1).flip(1) > 0


Fed = list[tuple[int, ...]]


@contextmanager
def recorded(model: type[torch.nn.Module] = Qwen3Model) -> Iterator[Fed]:
    """Record what every model of a class is fed from the first token on: the ids of each row, without padding."""
    fed: Fed = []
    forward = model.forward

    def watch(self: Any, input_ids: torch.Tensor | None = None, *args: Any, **given: Any) -> Any:
        mask, cache = given.get("attention_mask"), given.get("past_key_values")
        if input_ids is not None and (cache is None or not cache.get_seq_length()):
            real = _real(input_ids) if mask is None else mask
            fed.extend(tuple(row[there.bool()].tolist()) for row, there in zip(input_ids, real, strict=True))
        return forward(self, input_ids, *args, **given)

    model.forward = watch  # type: ignore[method-assign]
    try:
        yield fed
    finally:
        model.forward = forward  # type: ignore[method-assign]
