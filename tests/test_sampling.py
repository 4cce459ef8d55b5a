"""Sampling: the distribution it follows, and that in float32 it does not depend on what shares the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlgen.models import load_model, load_tokenizer
from rlgen.sampling import Choice, choose, decode, end_tokens, have_ended, uniforms
from tests.evaluation.tiny import make_tiny

LOGITS = torch.log(torch.tensor([[0.05, 0.4, 0.1, 0.3, 0.15]]))


def rates(top_p: float, temperature: float = 1.0) -> torch.Tensor:
    uniform = torch.from_numpy(np.random.default_rng(0).random(40_000))
    return torch.bincount(choose(LOGITS.expand(40_000, -1), temperature, uniform, top_p), minlength=5) / 40_000


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1.0, [0.05, 0.4, 0.1, 0.3, 0.15]), (0.3, [0, 1, 0, 0, 0]), (0.6, [0, 4 / 7, 0, 3 / 7, 0])],
)
def test_the_likeliest_tokens_that_have_top_p_together_are_sampled(top_p: float, kept: list[float]) -> None:
    torch.testing.assert_close(rates(top_p), torch.tensor(kept, dtype=torch.float32), atol=0.01, rtol=0)


def test_top_p_is_of_the_tempered_distribution() -> None:
    share = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15]) ** 2
    share = torch.where(share > 0.05, share, 0.0)  # 0.16 and 0.09 of 0.285: more than 0.8 together
    torch.testing.assert_close(rates(0.8, temperature=0.5), share / share.sum(), atol=0.01, rtol=0)


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30), st.floats(0.01, 1), st.floats(0, 0.999999))
def test_what_is_chosen_is_in_the_nucleus(logits: list[float], top_p: float, uniform: float) -> None:
    logits_BV = torch.tensor([logits])
    token = int(choose(logits_BV, 1.0, torch.tensor([uniform], dtype=torch.float64), top_p))
    share = torch.softmax(logits_BV[0], -1)
    assert share[share > share[token]].sum() < top_p + 1e-6


def test_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    model, tokenizer = load_model(make_tiny(tmp_path)), load_tokenizer(tmp_path)
    ends = end_tokens(model, tokenizer)
    prompts = [tokenizer(f"q {n} " + "a" * (n % 5))["input_ids"] for n in range(24)]

    def answers(batch: list[int], steps: int) -> dict[int, list[int]]:
        padded = tokenizer.pad({"input_ids": [prompts[n] for n in batch]}, return_tensors="pt")
        drawn = uniforms(0, [np.array(prompts[n]) for n in batch], [0] * len(batch), steps)
        found: dict[int, list[int]] = {n: [] for n in batch}
        with torch.no_grad():
            for _, rows, tokens in decode(
                model,
                padded["input_ids"],
                padded["attention_mask"],
                steps,
                lambda answer_BS: have_ended(answer_BS, ends, tokenizer),
                Choice(1.0, drawn, 0.9),
            ):
                for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                    found[batch[row]].append(token)
        return found

    together = answers(list(range(24)), 20)
    alone = {n: answers([n], 20)[n] for n in range(24)}
    assert sum(together[n] == alone[n] for n in range(24)) >= 23  # but for rounding
    assert len({tuple(answer) for answer in together.values()}) > 12
    for answer in together.values():
        assert not ends & set(answer[:-1]), "a row that has ended is not fed any more"
    shorter = answers(list(range(24)), 5)
    assert all(together[n][:5] == shorter[n] for n in range(24)), "nor does how much may follow matter"
