"""How the arm's own answers become likelier in base, to first order (METHOD: localisation, attribution score)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.features.answers import TOKENS, Batch, answers_of, log_probability
from rlgen.features.codes import Item, batches
from rlgen.models import edited, longest_input
from rlgen.study.sections import TokenSet


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
    answers = answers_of(tokenizer, items, longest_input(model, tokenizer))
    item_S = torch.tensor([answer.item for answer in answers], dtype=torch.long)
    total_ID = torch.zeros(len(items), model.config.get_text_config().hidden_size)
    for chosen in batches([len(answer.ids) for answer in answers], TOKENS):
        batch = Batch.of([answers[index] for index in chosen], tokenizer.bos_token_id, tokens, model.device)
        total_ID.index_add_(0, item_S[chosen], _gradients(model, layer, batch))
    return total_ID / torch.bincount(item_S, minlength=len(items)).clamp(min=1)[:, None]


def _gradients(model: PreTrainedModel, layer: int, batch: Batch) -> Tensor:
    """The gradient of every answer, [B, d]."""
    kept: list[Tensor] = []

    def watch(acts_BTD: Tensor) -> Tensor:
        kept.append(acts_BTD.detach().requires_grad_())
        return kept[-1]

    model.requires_grad_(False)
    with torch.enable_grad(), edited(model, layer, watch):
        (gradient_BTD,) = torch.autograd.grad(log_probability(model, batch).sum(), kept[0])
    return (gradient_BTD.float() * batch.shifted_BT[:, :, None]).sum(dim=1).cpu()
