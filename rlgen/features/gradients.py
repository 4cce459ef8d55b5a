"""How the arm's own answers become likelier in base, to first order (METHOD: localisation, attribution score)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.features.codes import Item, batches, in_set
from rlgen.models import edited
from rlgen.study.sections import TokenSet

TOKENS = 2048
"""Tokens per forward pass, padding included: their logits over the vocabulary are in memory."""


def answer_gradients(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    items: Sequence[Item],
    tokens: TokenSet,
) -> Tensor:
    """Gradient of an answer's log-probability for a shift of the residual stream after `layer`, [items, d] float32.

    The answers are `items[i].responses`, read by `model`; the shift is one vector added at every token of `tokens`
    (the beginning-of-sequence token left out), so the gradient is summed over them. Mean over an item's answers.
    """
    sequences = [(index, response) for index, item in enumerate(items) for response in item.responses if response]
    item_S = torch.tensor([index for index, _ in sequences], dtype=torch.long)
    pairs = [
        (tokenizer(items[index].prompt)["input_ids"], tokenizer(response, add_special_tokens=False)["input_ids"])
        for index, response in sequences
    ]
    total_ID = torch.zeros(len(items), model.config.get_text_config().hidden_size)
    for batch in batches([len(prompt) + len(answer) for prompt, answer in pairs], TOKENS):
        gradient_BD = _batch([pairs[index] for index in batch], model, tokenizer.bos_token_id, layer, tokens)
        total_ID.index_add_(0, item_S[batch], gradient_BD)
    return total_ID / torch.bincount(item_S, minlength=len(items)).clamp(min=1)[:, None]


def _batch(
    pairs: list[tuple[list[int], list[int]]],
    model: PreTrainedModel,
    bos: int | None,
    layer: int,
    tokens: TokenSet,
) -> Tensor:
    """The gradient of every (prompt, answer), given as token ids, [B, d]."""
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids_BT = torch.zeros(len(pairs), width, dtype=torch.long)
    there_BT, answer_BT, shifted_BT = (torch.zeros(len(pairs), width, dtype=torch.bool) for _ in range(3))
    for row, (prompt, answer) in enumerate(pairs):
        length = len(prompt) + len(answer)
        ids_BT[row, :length] = torch.tensor([*prompt, *answer])
        there_BT[row, :length] = True
        answer_BT[row, len(prompt) : length] = True
        inside = [in_set(tokens, place, len(prompt)) for place in range(length)]
        shifted_BT[row, :length] = torch.tensor(inside) & torch.tensor([id_ != bos for id_ in (*prompt, *answer)])
    place = model.device
    ids_BT, there_BT, answer_BT, shifted_BT = (x.to(place) for x in (ids_BT, there_BT, answer_BT, shifted_BT))
    kept: list[Tensor] = []

    def watch(acts_BTD: Tensor) -> Tensor:
        kept.append(acts_BTD.detach().requires_grad_())
        return kept[-1]

    model.requires_grad_(False)
    with torch.enable_grad(), edited(model, layer, watch):
        logits_BTV = model(input_ids=ids_BT, attention_mask=there_BT.long(), use_cache=False).logits[:, :-1]
        logits_NV, targets_N = logits_BTV[answer_BT[:, 1:]], ids_BT[:, 1:][answer_BT[:, 1:]]
        log_probability = -cross_entropy(logits_NV.float(), targets_N, reduction="sum")
        (gradient_BTD,) = torch.autograd.grad(log_probability, kept[0])
    return (gradient_BTD.float() * shifted_BT[:, :, None]).sum(dim=1).cpu()
