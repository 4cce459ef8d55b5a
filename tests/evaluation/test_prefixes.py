"""Prompts that are read once for many runs: the same answers, and nothing is read twice or altered."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.evaluation.harness import Harness
from rlgen.evaluation.lm import LiveLM, prompt_key
from rlgen.evaluation.prefixes import Prefixes
from rlgen.models import edited
from rlgen.study.sections import TokenSet
from tests.evaluation.conftest import EVALUATION, VERIFIERS

CONTEXTS = [[1, 20, 21, 22, 23], [1, 24], [5], [1, 20, 21, 22, 23], [1, 25, 26, 27], [6]]
"""Of different lengths, one twice, two of one token."""
CONTINUATIONS = [[30], [31, 32], [30], [33, 34, 35]]
"""After every context, one twice."""


@pytest.fixture
def harness(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: dict[str, Path]) -> Harness:
    return Harness(model, tokenizer, list(tasks.values()), EVALUATION, VERIFIERS)


def ignore(keys: list[bytes], logprobs_BV: Tensor) -> None:
    """Who watches, and does not care."""


def shared(lm: LiveLM) -> LiveLM:
    lm.shares_prefixes = True
    return lm


@contextmanager
def shifted(model: PreTrainedModel, lm: LiveLM | Harness, tokens: TokenSet | None) -> Iterator[None]:
    """While the block lasts, the first block's residual stream is shifted at a token set, or nowhere."""
    shift_D = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))

    def edit(acts_BTD: Tensor) -> Tensor:
        return acts_BTD if tokens is None else acts_BTD + 3 * lm.positions.mask(tokens)[..., None] * shift_D

    with edited(model, 1, edit):
        yield


@contextmanager
def counted(model: PreTrainedModel) -> Iterator[list[int]]:
    """How many tokens every forward pass is fed."""
    seen: list[int] = []
    with ExitStack() as stack:
        hook = model.register_forward_pre_hook(
            lambda _, __, given: seen.append(given["input_ids"].numel()), with_kwargs=True
        )
        stack.callback(hook.remove)
        yield seen


def padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("tokens", [None, "last_prompt", "answer"])
def test_log_likelihoods_are_the_same(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: TokenSet | None, batch: int
) -> None:
    requests = [(("", ""), context, continuation) for context in CONTEXTS for continuation in CONTINUATIONS]
    plain, sharing = LiveLM(model, tokenizer, batch), shared(LiveLM(model, tokenizer, batch))
    with shifted(model, plain, tokens):
        wanted = plain._loglikelihood_tokens(requests)
    for _ in range(2):
        with shifted(model, sharing, tokens):
            found = sharing._loglikelihood_tokens(requests)
        assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], abs=1e-4)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    if tokens:
        with shifted(model, plain, None):
            unedited = plain._loglikelihood_tokens(requests)
        assert [score for score, _ in wanted] != pytest.approx([score for score, _ in unedited], abs=1e-2)


@pytest.mark.parametrize("tokens", [None, "last_prompt", "answer"])
def test_sampled_answers_are_the_same(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: TokenSet | None
) -> None:
    ids_BT, mask_BT = padded(CONTEXTS)
    settings: dict[str, Any] = {"attention_mask": mask_BT, "do_sample": True, "temperature": 1.0}
    plain, sharing = LiveLM(model, tokenizer, 64), shared(LiveLM(model, tokenizer, 64))
    with shifted(model, plain, tokens):
        wanted_BT = plain._model_generate(ids_BT, ids_BT.shape[1] + 8, [], **settings)
    for _ in range(2):
        sharing.start(seed=0)
        with shifted(model, sharing, tokens):
            assert torch.equal(sharing._model_generate(ids_BT, ids_BT.shape[1] + 8, [], **settings), wanted_BT)
    assert not torch.equal(wanted_BT[0], wanted_BT[3]), "the same prompt's samples have their own random numbers"


@pytest.mark.parametrize("tokens", [None, "last_prompt", "answer"])
def test_runs_are_the_same(model: PreTrainedModel, harness: Harness, tokens: TokenSet | None) -> None:
    with shifted(model, harness, tokens):
        wanted = harness.run(samples=2, seed=3)
    harness.watch(ignore, shares_prefixes=True)
    for _ in range(2):
        with shifted(model, harness, tokens):
            found = harness.run(samples=2, seed=3)
        pd.testing.assert_frame_equal(found.drop(columns="log_likelihoods"), wanted.drop(columns="log_likelihoods"))
        for likelihoods, expected in zip(found["log_likelihoods"], wanted["log_likelihoods"], strict=True):
            assert likelihoods == (expected if expected is None else pytest.approx(expected, abs=1e-4))


def test_an_edit_of_the_answer_alone_leaves_prompts_kept_without_it(model: PreTrainedModel, harness: Harness) -> None:
    """What is read of prompts while a model is edited is what the unedited one reads."""
    wanted = harness.run(["max", "pick"], seed=1)
    harness.watch(ignore, shares_prefixes=True)
    for tokens in ("last_prompt", "answer"):
        with shifted(model, harness, tokens):  # type: ignore[arg-type]
            harness.run(["max", "pick"], seed=1)
    found = harness.run(["max", "pick"], seed=1)
    assert found["response"].tolist() == wanted["response"].tolist()


def test_a_second_run_reads_no_prompt_again_until_it_is_forgotten(model: PreTrainedModel, harness: Harness) -> None:
    harness.watch(ignore, shares_prefixes=True)
    runs = []
    for forget in (False, False, True):
        if forget:
            harness.forget()
        with counted(model) as seen:
            harness.run(["pick", "max"], seed=1)
        runs.append(seen)
    first, second, third = runs
    assert third == first
    assert len(second) == len(first) - 2, "each task's prompts are one batch"
    assert sum(second) < sum(first) / 2


def test_prompts_that_are_the_same_are_read_once(model: PreTrainedModel) -> None:
    watched: list[Tensor] = []
    prefixes = Prefixes(model, lambda ids_BT, mask_BT: watched.append(ids_BT))
    ids_BT, mask_BT = padded([*CONTEXTS, *CONTEXTS])
    cache = prefixes.of(ids_BT, mask_BT)
    (fed_BT,) = watched
    assert len(fed_BT) == len({tuple(context) for context in CONTEXTS})
    assert fed_BT.shape[1] == ids_BT.shape[1] - 1
    keys = cache.layers[0].keys
    assert len(keys) == len(ids_BT)
    assert torch.equal(keys[: len(CONTEXTS)], keys[len(CONTEXTS) :])


def test_what_is_handed_out_does_not_alter_what_is_kept(model: PreTrainedModel) -> None:
    prefixes = Prefixes(model, lambda ids_BT, mask_BT: None)
    ids_BT, mask_BT = padded(CONTEXTS)
    first = prefixes.of(ids_BT, mask_BT)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in first.layers]
    with torch.no_grad():
        for _ in range(3):
            model(input_ids=ids_BT[:, -1:], attention_mask=mask_BT, past_key_values=first, use_cache=True)
            mask_BT = torch.cat([mask_BT, mask_BT[:, -1:]], dim=1)
    first.batch_select_indices(torch.tensor([1, 4]))
    second = prefixes.of(*padded(CONTEXTS))
    assert second.get_seq_length() == ids_BT.shape[1] - 1
    for layer, (keys, values) in zip(second.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


def test_prompts_of_one_token_have_nothing_to_keep(model: PreTrainedModel) -> None:
    with counted(model) as seen:
        cache = Prefixes(model, lambda ids_BT, mask_BT: None).of(*padded([[5], [6], [5]]))
    assert not seen
    assert cache.get_seq_length() == 0


@pytest.mark.parametrize("sharing", [False, True])
def test_who_watches_is_told_what_is_likely_after_each_prompt(
    model: PreTrainedModel, harness: Harness, sharing: bool
) -> None:
    told: dict[bytes, Tensor] = {}
    harness.watch(lambda keys, logprobs_BV: told.update(zip(keys, logprobs_BV, strict=True)), sharing)
    harness.run(seed=1)
    prompts = [ids for task in harness.tasks for ids in harness.prompt_ids(task).values()]
    assert told.keys() == {prompt_key(ids) for ids in prompts}
    for ids in prompts[::7]:
        with torch.no_grad():
            wanted_V = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], dim=-1)
        torch.testing.assert_close(told[prompt_key(ids)], wanted_V, rtol=1e-3, atol=1e-4)
    answered = dict(told)
    told.clear()
    harness.decide(prompts)
    assert told.keys() == answered.keys()
    for key, wanted_V in answered.items():
        torch.testing.assert_close(told[key], wanted_V, rtol=1e-3, atol=1e-4)
