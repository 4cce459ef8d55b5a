"""One answer read alone, without padding or batches: what the code that reads many at once is held against."""

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.features.codes import Item
from rlgen.models import edited
from rlgen.study.sections import TokenSet


def log_probability(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    item: Item,
    answer: str,
    step_D: Tensor,
    tokens: TokenSet,
) -> float:
    """Of an answer after the item's prompt, with `step_D` added to the residual stream after block 1 at `tokens`."""
    prompt = tokenizer(item.prompt)["input_ids"]
    ids = torch.tensor([[*prompt, *tokenizer(answer, add_special_tokens=False)["input_ids"]]])
    first, last = {
        "last_prompt": (len(prompt) - 1, len(prompt)),
        "prompt": (1, len(prompt)),  # the beginning-of-sequence token is left out
        "answer": (len(prompt), ids.shape[1]),
        "all": (1, ids.shape[1]),
    }[tokens]

    def shift(acts_BTD: Tensor) -> Tensor:
        moved_BTD = acts_BTD.clone()
        moved_BTD[:, first:last] += step_D
        return moved_BTD

    with torch.no_grad(), edited(model, 1, shift):
        log_TV = model(input_ids=ids).logits[0].log_softmax(dim=-1)
    return float(sum(log_TV[place - 1, ids[0, place]] for place in range(len(prompt), ids.shape[1])))
