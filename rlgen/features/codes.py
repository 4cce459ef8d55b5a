"""Per-model codes of an evaluation's items (METHOD: localisation)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.crosscoder.model import Crosscoder
from rlgen.models import residuals
from rlgen.study.sections import CodeKind, TokenSet

TOKENS = 16384
"""Tokens per forward pass, padding included; a sequence that is longer has one for itself."""
CHUNK = 4096
"""Tokens encoded at once."""


@dataclass(frozen=True)
class Item:
    """An evaluation item and one model's answers to it."""

    prompt: str
    responses: list[str]


@dataclass(frozen=True)
class Marked:
    """A sequence that belongs to an item, and which of its tokens count."""

    item: int
    ids: list[int]
    counts: list[bool]


def mark(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], tokens: TokenSet) -> list[Marked]:
    """The sequences in which `tokens` are looked up: one an item, or one an answer where answers count.

    The beginning-of-sequence token never counts: its activation is like no other's.
    """
    found = []
    for index, item in enumerate(items):
        prompt = tokenizer(item.prompt)["input_ids"]
        with_answers = item.responses if tokens in ("answer", "all") else [""]
        for response in with_answers:
            answer = tokenizer(response, add_special_tokens=False)["input_ids"] if response else []
            ids = [*prompt, *answer]
            inside = (in_set(tokens, place, len(prompt)) for place in range(len(ids)))
            counts = [within and id_ != tokenizer.bos_token_id for within, id_ in zip(inside, ids, strict=True)]
            found.append(Marked(index, ids, counts))
    return found


def in_set(tokens: TokenSet, place: int, prompt: int) -> bool:
    """Whether the token at `place` of a sequence whose prompt has `prompt` tokens belongs to `tokens`."""
    if tokens == "last_prompt":
        return place == prompt - 1
    return tokens == "all" or (tokens == "prompt") == (place < prompt)


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Which sequences to read together, shortest first: padded to the longest, at most so many tokens, or one alone."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.no_grad()
def item_codes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    crosscoder: Crosscoder,
    slot: int,
    items: Sequence[Item],
    tokens: TokenSet,
    kind: CodeKind = "swap_readout",
) -> Tensor:
    """Mean code of every item over its tokens that count, [items, F] float32: the model's own, of this kind.

    Every sequence of an item weighs the same, and every token of a sequence. Outliers do not count: the crosscoder
    says nothing about them. An item without such tokens has 0.
    """
    encode = crosscoder.swap_readout if kind == "swap_readout" else crosscoder.decoder_projection
    marked = mark(tokenizer, items, tokens)
    per_item = torch.bincount(torch.tensor([m.item for m in marked]), minlength=len(items))
    codes_IF = torch.zeros(len(items), crosscoder.config.features)
    for chosen in batches([len(m.ids) for m in marked], TOKENS):
        batch = [marked[index] for index in chosen]
        acts_ND, sequence_N = _read(model, batch, crosscoder, slot)
        length = torch.bincount(sequence_N, minlength=len(batch))
        for acts, sequence in zip(torch.split(acts_ND, CHUNK), torch.split(sequence_N, CHUNK), strict=True):
            item = torch.tensor([m.item for m in batch])[sequence]
            weight = 1.0 / (length[sequence] * per_item[item])
            codes_NF = encode(acts, slot).float().cpu()
            codes_IF.index_add_(0, item, codes_NF * weight[:, None])
    return codes_IF


def _read(model: PreTrainedModel, batch: list[Marked], crosscoder: Crosscoder, slot: int) -> tuple[Tensor, Tensor]:
    """Activations at the tokens that count, [N, d] float32, and the sequence of the batch that each is of, [N]."""
    width = max(len(m.ids) for m in batch)
    ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
    there_BT = torch.zeros_like(ids_BT)
    counts_BT = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, m in enumerate(batch):
        ids_BT[row, : len(m.ids)] = torch.tensor(m.ids)
        there_BT[row, : len(m.ids)] = 1
        counts_BT[row, : len(m.ids)] = torch.tensor(m.counts)
    place = model.device
    acts_BTD = residuals(
        model, [crosscoder.config.layer], input_ids=ids_BT.to(place), attention_mask=there_BT.to(place)
    )[:, :, 0]
    acts_ND = acts_BTD[counts_BT.to(place)].float()
    kept_N = crosscoder.ordinary(acts_ND, slot)
    sequence_N = counts_BT.nonzero()[:, 0]
    return acts_ND[kept_N], sequence_N[kept_N.cpu()]
