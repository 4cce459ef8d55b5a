"""Sampling answers of a causal LM, for the evaluation and the teacher.

A row draws one uniform number for each (seed, prompt, sample, step). So its random numbers do not depend on its
neighbours in the batch, and two conditions with the same seed share theirs. The model's numbers do depend on the batch,
in their last bits: in float32 that changes next to no answer, in bfloat16 and float16 it changes many. How many is
measured (`rlgen.evaluation.batching`). Rows that have ended leave the batch, which saves most of the time when answers
are of very different lengths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from rlgen.caches import cache_inputs, keep_rows, new_cache


class Watcher(Protocol):
    """Who is told of every forward pass of the generation before it is made."""

    def prefill(self, ids: Tensor, attention_mask: Tensor, fed: int | None = None) -> None:
        """Prompts, padded on the left, [batch, length]: their last `fed` tokens are about to be fed, or all."""

    def step(self, ids: Tensor, attention_mask: Tensor) -> None:
        """The last of `ids`, [batch, length], one new token a row, is about to be fed."""

    def end(self) -> None:
        """No forward pass is running any more."""


@dataclass(frozen=True)
class Choice:
    """How next tokens are chosen."""

    temperature: float = 0.0
    """0 takes the likeliest."""
    uniform_BS: Tensor | None = None
    """A number in [0, 1) for every row and step, unless the temperature is 0."""
    top_p: float = 1.0
    """Only the likeliest tokens that have this probability together."""


def decode(
    model: PreTrainedModel,
    ids_BT: Tensor,
    mask_BT: Tensor,
    steps: int,
    ended: Callable[[Tensor], Tensor],
    choice: Choice,
    watcher: Watcher | None = None,
    start: Cache | None = None,
    first: Callable[[Tensor], None] | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """New tokens of prompts that are padded on the left, step by step: (step, the rows that go on, their tokens).

    `ended` says of answers, [batch, steps so far], which have just written their end, bool [batch]. `start` holds the
    prompts without their last tokens, if they have been read already. `first` is told the scores of the first new
    tokens, [batch, vocabulary].
    """
    cache = new_cache(model) if start is None else start
    rows = torch.arange(len(ids_BT), device=ids_BT.device)
    prompt = ids_BT.shape[1]
    fed, place = ids_BT, (mask_BT.cumsum(1) - 1).clamp(min=0)
    if start is not None:
        fed, place = fed[:, -1:], place[:, -1:]
    if watcher:
        watcher.prefill(ids_BT, mask_BT, fed.shape[1])
    for step in range(steps):
        logits_BV = model(
            input_ids=fed,
            position_ids=place,
            logits_to_keep=1,
            **cache_inputs(model, cache, mask_BT, fed.shape[1]),
        ).logits[:, -1]
        if first is not None and step == 0:
            first(logits_BV)
        uniform_B = None if choice.uniform_BS is None else choice.uniform_BS[rows, step]
        new_B = choose(logits_BV, choice.temperature, uniform_B, choice.top_p)
        yield step, rows, new_B
        ids_BT = torch.cat([ids_BT, new_B[:, None]], dim=1)
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(new_B), 1)], dim=1)
        going = ~ended(ids_BT[:, prompt:])
        if not going.any():
            break
        if not going.all():
            kept = going.nonzero()[:, 0]
            keep_rows(cache, kept)
            rows, ids_BT, mask_BT = rows[kept], ids_BT[kept], mask_BT[kept]
        fed, place = ids_BT[:, -1:], mask_BT.sum(1, keepdim=True) - 1
        if watcher:
            watcher.step(ids_BT, mask_BT)
    if watcher:
        watcher.end()


def choose(logits_BV: Tensor, temperature: float, uniform_B: Tensor | None, top_p: float = 1.0) -> Tensor:
    """Next tokens, [batch]: the likeliest, or by the inverse of the cumulative distribution at the uniform numbers."""
    if uniform_B is None:
        return logits_BV.argmax(-1)
    share_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    if top_p < 1:
        share_BV = _nucleus(share_BV, top_p)
    cumulative_BV = share_BV.cumsum(-1, dtype=torch.float64)
    wanted_B = uniform_B * cumulative_BV[:, -1]
    return torch.searchsorted(cumulative_BV, wanted_B[:, None], right=True)[:, 0].clamp(max=logits_BV.shape[-1] - 1)


def _nucleus(share_BV: Tensor, top_p: float) -> Tensor:
    """Probabilities, those outside the smallest set that has `top_p` together set to 0 (Holtzman et al. 2019)."""
    sorted_BV, order_BV = share_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1, dtype=torch.float64) - sorted_BV
    return torch.zeros_like(share_BV).scatter(-1, order_BV, sorted_BV.where(before_BV < top_p, 0.0))


def uniforms(seed: int, prompts: Sequence[NDArray[np.int64]], samples: Sequence[int], steps: int) -> Tensor:
    """Uniform numbers, [batch, steps] float64: a row's follow from the seed, its prompt's ids and its sample."""
    found = []
    for prompt, sample in zip(prompts, samples, strict=True):
        key = hashlib.blake2b(f"{seed} {sample} ".encode() + prompt.tobytes(), digest_size=16).digest()
        found.append(np.random.Generator(np.random.Philox(key=int.from_bytes(key))).random(steps))
    return torch.from_numpy(np.stack(found))


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer: the tokenizer's own, and those that the model's generation settings name."""
    stops = model.generation_config.eos_token_id if model.generation_config else None
    return {tokenizer.eos_token_id, *([stops] if isinstance(stops, int) else stops or [])} - {None}


def have_ended(
    answer_BS: Tensor, ends: set[int], tokenizer: PreTrainedTokenizerBase, strings: Sequence[str] = ()
) -> Tensor:
    """Which rows have just written an end token or one of the strings, bool [batch]."""
    ended = torch.isin(answer_BS[:, -1], torch.tensor(sorted(ends), device=answer_BS.device))
    if strings:
        tail = max(map(len, strings)) + 1  # a token has one character at least
        texts = tokenizer.batch_decode(answer_BS[:, -tail:])
        ended |= torch.tensor([any(s in text for s in strings) for text in texts], device=ended.device)
    return ended
