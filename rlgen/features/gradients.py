"""How the arm's own answers become likelier in base, to first order (METHOD: localisation, attribution score)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.features.codes import BATCH, Item, in_set
from rlgen.models import edited
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
    sequences = [(index, response) for index, item in enumerate(items) for response in item.responses if response]
    per_item = torch.bincount(torch.tensor([index for index, _ in sequences], dtype=torch.long), minlength=len(items))
    total_ID: Tensor | None = None
    for start in range(0, len(sequences), BATCH):
        batch = sequences[start : start + BATCH]
        gradient_BD = _batch([(items[i].prompt, response) for i, response in batch], model, tokenizer, layer, tokens)
        if total_ID is None:
            total_ID = torch.zeros(len(items), gradient_BD.shape[1])
        total_ID.index_add_(0, torch.tensor([index for index, _ in batch]), gradient_BD)
    if total_ID is None:
        return torch.zeros(len(items), model.config.get_text_config().hidden_size)
    return total_ID / per_item.clamp(min=1)[:, None]


def _batch(
    pairs: list[tuple[str, str]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    tokens: TokenSet,
) -> Tensor:
    """The gradient of every (prompt, answer), [B, d]."""
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in pairs]
    answers = [tokenizer(answer, add_special_tokens=False)["input_ids"] for _, answer in pairs]
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids_BT = torch.zeros(len(pairs), width, dtype=torch.long)
    there_BT, answer_BT, shifted_BT = (torch.zeros(len(pairs), width, dtype=torch.bool) for _ in range(3))
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        length = len(prompt) + len(answer)
        ids_BT[row, :length] = torch.tensor([*prompt, *answer])
        there_BT[row, :length] = True
        answer_BT[row, len(prompt) : length] = True
        inside = [in_set(tokens, place, len(prompt)) for place in range(length)]
        shifted_BT[row, :length] = torch.tensor(inside) & (ids_BT[row, :length] != tokenizer.bos_token_id)
    place = model.device
    ids_BT, there_BT, answer_BT, shifted_BT = (x.to(place) for x in (ids_BT, there_BT, answer_BT, shifted_BT))
    kept: list[Tensor] = []

    def watch(acts_BTD: Tensor) -> Tensor:
        kept.append(acts_BTD.detach().requires_grad_())
        return kept[-1]

    model.requires_grad_(False)
    with torch.enable_grad(), edited(model, layer, watch):
        logits_BTV = model(input_ids=ids_BT, attention_mask=there_BT.long(), use_cache=False).logits[:, :-1]
        log_BT = torch.log_softmax(logits_BTV.float(), dim=-1).gather(2, ids_BT[:, 1:, None])[:, :, 0]
        (gradient_BTD,) = torch.autograd.grad((log_BT * answer_BT[:, 1:]).sum(), kept[0])
    return (gradient_BTD.float() * shifted_BT[:, :, None]).sum(dim=1).cpu()
