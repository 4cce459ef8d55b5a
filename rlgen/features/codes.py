"""Per-model codes of an evaluation's items (METHOD: localisation)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.crosscoder.model import Crosscoder
from rlgen.models import longest_input, residuals
from rlgen.study.sections import CodeKind, TokenSet
from rlgen.token_sets import Ids, Tokens, counting, encode, encode_answer, encode_choice, pad

TOKENS = 16384
"""Tokens per forward pass, padding included; a sequence that is longer has one for itself."""
CHUNK = 4096
"""Tokens encoded at once."""


@dataclass(frozen=True)
class Item:
    """An evaluation item and one model's answers to it."""

    prompt: str
    responses: list[str]
    sampled: Sequence[Ids | None] | None = None
    """The token ids of each response, as they were sampled; None where only the text is known."""
    chosen: bool = False
    """Whether the response is a choice that was scored, not written."""
    name: str = "an item"
    """Task and item, for messages."""

    def sequences(self, tokenizer: PreTrainedTokenizerBase, longest: int | None) -> list[Tokens]:
        """Return prompt and response of each answer, with the ids that evaluation read or wrote.

        Args:
            tokenizer: The model's tokenizer.
            longest: The most tokens that the model can read; no limit if None.

        Raises:
            StudyError: If a choice has no token of its own.
        """
        if self.chosen:
            where = f"{self.name}, choice"
            return [
                encode_choice(tokenizer, self.prompt, text, f"{where} {text!r}", longest) for text in self.responses
            ]
        asked, known = encode(tokenizer, self.prompt), self.sampled or [None] * len(self.responses)
        return [
            encode_answer(tokenizer, self.prompt, text) if ids is None else Tokens(asked, ids)
            for text, ids in zip(self.responses, known, strict=True)
        ]


@dataclass(frozen=True)
class Marked:
    """A sequence that belongs to an item, and which of its tokens count."""

    item: int
    ids: Ids
    counts: list[bool]


def mark(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], tokens: TokenSet, longest: int | None = None
) -> list[Marked]:
    """Return the sequences in which `tokens` are looked up: one an item, or one an answer where answers count.

    The beginning-of-sequence token never counts: its activation is like no other's. `longest` is the most tokens that
    the model can read.
    """
    found = []
    for index, item in enumerate(items):
        with_answers = tokens in ("answer", "all")
        if with_answers or item.chosen:
            sequences = item.sequences(tokenizer, longest)
        else:
            sequences = [Tokens(encode(tokenizer, item.prompt), [])]
        for sequence in sequences if with_answers else [Tokens(sequences[0].prompt, [])]:
            counts = counting(tokens, sequence, tokenizer.bos_token_id, item.chosen and with_answers)
            found.append(Marked(index, sequence.ids, counts))
    return found


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
    marked = mark(tokenizer, items, tokens, longest_input(model, tokenizer))
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
    place = model.device
    padded = pad([m.ids for m in batch], place)
    counts_BT = pad([m.counts for m in batch], "cpu").ids_BT.bool()
    acts_BTD = residuals(model, [crosscoder.config.layer], input_ids=padded.ids_BT, attention_mask=padded.mask_BT)[
        :, :, 0
    ]
    acts_ND = acts_BTD[counts_BT.to(place)].float()
    kept_N = crosscoder.ordinary(acts_ND, slot)
    sequence_N = counts_BT.nonzero()[:, 0]
    return acts_ND[kept_N], sequence_N[kept_N.cpu()]
