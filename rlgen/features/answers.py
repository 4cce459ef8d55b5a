"""Answers laid out as padded batches, and their log-probability (METHOD: localisation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.features.codes import Item, in_set
from rlgen.study.sections import TokenSet

TOKENS = 2048
"""Tokens per forward pass, padding included: their logits over the vocabulary are in memory."""


@dataclass(frozen=True)
class Answer:
    """One answer to an item, as token ids."""

    item: int
    prompt: list[int]
    response: list[int]

    @property
    def ids(self) -> list[int]:
        """The whole sequence."""
        return [*self.prompt, *self.response]


def answers_of(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> list[Answer]:
    """Every answer of the items that is not empty."""
    return [
        Answer(index, tokenizer(item.prompt)["input_ids"], tokenizer(response, add_special_tokens=False)["input_ids"])
        for index, item in enumerate(items)
        for response in item.responses
        if response
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
        width = max(len(answer.ids) for answer in answers)
        ids_BT = torch.zeros(len(answers), width, dtype=torch.long)
        there_BT, answer_BT, shifted_BT = (torch.zeros(len(answers), width, dtype=torch.bool) for _ in range(3))
        for row, answer in enumerate(answers):
            ids, start = answer.ids, len(answer.prompt)
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            there_BT[row, : len(ids)] = True
            answer_BT[row, start : len(ids)] = True
            inside = [in_set(tokens, place, start) and id_ != bos for place, id_ in enumerate(ids)]
            shifted_BT[row, : len(ids)] = torch.tensor(inside)
        return cls(*(x.to(device) for x in (ids_BT, there_BT, answer_BT, shifted_BT)))


def log_probability(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Log-probability of every answer after its prompt, summed over its tokens, [B] float32."""
    logits_BTV = model(input_ids=batch.ids_BT, attention_mask=batch.there_BT.long(), use_cache=False).logits[:, :-1]
    answer_BT = batch.answer_BT[:, 1:]
    logits_NV, targets_N = logits_BTV[answer_BT], batch.ids_BT[:, 1:][answer_BT]
    log_N = -cross_entropy(logits_NV.float(), targets_N, reduction="none")
    return log_N.new_zeros(len(answer_BT)).index_add(0, answer_BT.nonzero()[:, 0], log_N)
