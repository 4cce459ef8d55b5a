"""The gradient of an answer's log-probability, against finite differences."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rlgen.features.codes import Item
from rlgen.features.gradients import answer_gradients
from rlgen.models import load_model, load_tokenizer
from rlgen.study.sections import TokenSet
from tests.features.alone import log_probability
from tests.features.arms import make_arms

ITEMS = [Item("Q max 12345\nA ", ["12345=5", "=5"]), Item("Q cnt abc\nA ", ["11=1"])]
LAYER = 1
STEP = 5e-3
"""Of the finite difference: the norms of the model are computed in float32, so a smaller one drowns in rounding."""


@pytest.mark.parametrize("tokens", ["last_prompt", "prompt", "answer", "all"])
def test_it_is_the_slope_of_the_log_probability_under_a_shift(tmp_path: Path, tokens: TokenSet) -> None:
    base = make_arms(tmp_path)["base"]
    model, tokenizer = load_model(base).double(), load_tokenizer(base)
    d = model.config.hidden_size
    direction_D = torch.randn(d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def stepped(item: Item, answer: str, step: float) -> float:
        return log_probability(model, tokenizer, item, answer, step * direction_D, tokens)

    found_ID = answer_gradients(model, tokenizer, LAYER, ITEMS, tokens)
    for item, gradient_D in zip(ITEMS, found_ID, strict=True):
        slopes = [
            (stepped(item, answer, STEP) - stepped(item, answer, -STEP)) / (2 * STEP) for answer in item.responses
        ]
        assert float(gradient_D.double() @ direction_D) == pytest.approx(sum(slopes) / len(slopes), rel=1e-2, abs=1e-4)


def test_a_shift_of_all_tokens_is_one_of_the_prompt_and_one_of_the_answer(tmp_path: Path) -> None:
    base = make_arms(tmp_path)["base"]
    model, tokenizer = load_model(base), load_tokenizer(base)
    found = {tokens: answer_gradients(model, tokenizer, LAYER, ITEMS, tokens) for tokens in ("all", "prompt", "answer")}
    assert found["answer"].any()
    torch.testing.assert_close(found["all"], found["prompt"] + found["answer"])


def test_a_forward_pass_reads_no_more_tokens_than_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_arms(tmp_path)["base"]
    model, tokenizer = load_model(base), load_tokenizer(base)
    items = [Item(f"Q max {'9' * (37 * n % 60)}\nA ", ["1234=4", "7", ""]) for n in range(12)]
    whole_ID = answer_gradients(model, tokenizer, LAYER, items, "all")
    read, scored = [], []

    def watched(logits_NV: Tensor, targets_N: Tensor, **how: Any) -> Tensor:
        scored.append(logits_NV.shape[0])
        return cross_entropy(logits_NV, targets_N, **how)

    monkeypatch.setattr("rlgen.features.answers.cross_entropy", watched)
    monkeypatch.setattr("rlgen.features.gradients.TOKENS", 60)
    model.register_forward_pre_hook(lambda _, __, inputs: read.append(inputs["input_ids"].shape), with_kwargs=True)
    torch.testing.assert_close(answer_gradients(model, tokenizer, LAYER, items, "all"), whole_ID, rtol=1e-4, atol=1e-5)
    assert all(rows == 1 or rows * width <= 60 for rows, width in read)
    assert max(rows for rows, _ in read) > 2
    assert max(width for _, width in read) > 60  # a sequence longer than the budget goes alone
    assert sum(scored) == 12 * len("1234=47")  # no other position's logits are made float


def test_an_item_without_an_answer_has_none(tmp_path: Path) -> None:
    base = make_arms(tmp_path)["base"]
    found_ID = answer_gradients(load_model(base), load_tokenizer(base), LAYER, [Item("Q max 1\nA ", [""])], "prompt")
    assert found_ID.shape[0] == 1
    assert not found_ID.any()
