"""Answers laid out as padded batches, and their log-probability (METHOD: localisation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.features.codes import Item
from rlgen.study.sections import TokenSet
from rlgen.token_sets import Ids, Tokens, counting, in_set, pad

TOKENS = 2048
"""Tokens per forward pass, padding included: their logits over the vocabulary are in memory."""


@dataclass(frozen=True)
class Answer:
    """One answer to an item, as token ids."""

    item: int
    tokens: Tokens
    chosen: bool
    """Whether it is a choice that was scored, not written."""

    @property
    def ids(self) -> Ids:
        """The whole sequence."""
        return self.tokens.ids


def answers_of(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], longest: int | None = None) -> list[Answer]:
    """Return every answer of the items that has a token. `longest` is the most tokens that the model can read."""
    return [
        Answer(index, tokens, item.chosen)
        for index, item in enumerate(items)
        for tokens in item.sequences(tokenizer, longest)
        if tokens.answer
    ]


@dataclass(frozen=True)
class Batch:
    """Answers padded to the longest, [B, T] each."""

    ids_BT: Tensor
    there_BT: Tensor
    """No padding."""
    answer_BT: Tensor
    """Tokens of the answer."""
    shifted_BT: Tensor
    """Tokens of the token set, without the beginning-of-sequence token."""

    @classmethod
    def of(cls, answers: Sequence[Answer], bos: int | None, tokens: TokenSet, device: torch.device) -> Batch:
        """Lay the answers out. `bos` is the id of the beginning-of-sequence token, if there is one."""
        padded = pad([answer.ids for answer in answers], device)
        starts = torch.tensor([len(answer.tokens.prompt) for answer in answers], device=device)[:, None]
        places = torch.arange(padded.ids_BT.shape[1], device=device)
        shifted = [counting(tokens, answer.tokens, bos, answer.chosen) for answer in answers]
        shifted_BT = pad(shifted, device).ids_BT.bool()
        return cls(padded.ids_BT, padded.there_BT, in_set("answer", places, starts) & padded.there_BT, shifted_BT)


def log_probability(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Log-probability of every answer after its prompt, summed over its tokens, [B] float32."""
    logits_BTV = model(input_ids=batch.ids_BT, attention_mask=batch.there_BT.long(), use_cache=False).logits[:, :-1]
    answer_BT = batch.answer_BT[:, 1:]
    logits_NV, targets_N = logits_BTV[answer_BT], batch.ids_BT[:, 1:][answer_BT]
    log_N = -cross_entropy(logits_NV.float(), targets_N, reduction="none")
    return log_N.new_zeros(len(answer_BT)).index_add(0, answer_BT.nonzero()[:, 0], log_N)
