"""How the arm's own answers become likelier in base, measured (METHOD: localisation, delta-patching score)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.features.answers import TOKENS, Answer, Batch, answers_of, log_probability
from rlgen.features.codes import Item, batches
from rlgen.models import ResidualEdit, edited, longest_input
from rlgen.study.sections import TokenSet


@torch.no_grad()
def patching_effects(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    items: Sequence[Item],
    codes_MIK: Tensor,
    rows_MKD: Tensor,
    tokens: TokenSet,
) -> Tensor:
    """Change of an answer's log-probability when one feature's decoded difference is added, [items, K] float32.

    Feature k's difference on item i is codes[1, i, k] rows[1, k] - codes[0, i, k] rows[0, k]: the arm's (1) less
    base's (0), raw units. It is added to the residual stream of `model` after `layer` at every token of `tokens` (the
    beginning-of-sequence token left out). The answers are `items[i].responses`, summed over tokens; mean over an
    item's answers. Where both codes are 0 nothing would change, so nothing is run.
    """
    answers = answers_of(tokenizer, items, longest_input(model, tokenizer))
    item_S = torch.tensor([answer.item for answer in answers], dtype=torch.long)

    def read(sequences: list[Answer], steps: Callable[[list[int]], Tensor] | None) -> Tensor:
        return _read(model, tokenizer.bos_token_id, layer, tokens, sequences, steps)

    trial_N2 = (codes_MIK != 0).any(dim=0)[item_S].nonzero().cpu()
    answer_N, feature_N = trial_N2.unbind(dim=1)
    item_N = item_S[answer_N]

    def steps(chosen: list[int]) -> Tensor:
        """The difference that each of these trials adds, [B, d]."""
        k, codes_MB = feature_N[chosen], codes_MIK[:, item_N[chosen], feature_N[chosen]]
        return codes_MB[1, :, None] * rows_MKD[1, k] - codes_MB[0, :, None] * rows_MKD[0, k]

    unpatched_S = read(answers, None)
    patched_N = read([answers[index] for index in answer_N.tolist()], steps)
    total_IK = torch.zeros(len(items), rows_MKD.shape[1])
    total_IK.index_put_((item_N, feature_N), patched_N - unpatched_S[answer_N], accumulate=True)
    return total_IK / torch.bincount(item_S, minlength=len(items)).clamp(min=1)[:, None]


def _read(
    model: PreTrainedModel,
    bos: int | None,
    layer: int,
    tokens: TokenSet,
    answers: list[Answer],
    steps: Callable[[list[int]], Tensor] | None,
) -> Tensor:
    """Log-probability of every answer, [S] float32, with `steps` of its index added; of the bare model without."""
    found_S = torch.zeros(len(answers))
    for chosen in batches([len(answer.ids) for answer in answers], TOKENS):
        batch = Batch.of([answers[index] for index in chosen], bos, tokens, model.device)
        with contextlib.ExitStack() as hooks:
            if steps is not None:
                hooks.enter_context(edited(model, layer, _adding(steps(chosen), batch.shifted_BT)))
            found_S[chosen] = log_probability(model, batch).cpu()
    return found_S


def _adding(steps_BD: Tensor, where_BT: Tensor) -> ResidualEdit:
    """The edit that adds a vector of its own to every sequence, at some tokens."""

    def edit(acts_BTD: Tensor) -> Tensor:
        return acts_BTD + where_BT[:, :, None] * steps_BD[:, None].to(acts_BTD)

    return edit
