"""lm-evaluation-harness's model interface over a model in memory, for edits of the live model.

It differs from the harness's own HFLM in three things. Every forward pass announces its token sets
(`TokenPositions`). Answers are sampled by `rlgen.sampling`: in float32, what shares the batch matters as little as
rounding does. Token ids come from `rlgen.token_sets`, by the harness's rules, and a choice without a token of its own
is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.caches import cache_inputs, is_recurrent
from rlgen.evaluation.positions import TokenPositions
from rlgen.evaluation.prefixes import Prefixes
from rlgen.sampling import Choice, decode, end_tokens, have_ended, uniforms
from rlgen.token_sets import Ids, Tokens, encode, encode_choice, encode_pair, pad, pad_left, written_ids

log = logging.getLogger("rlgen")

Item = TypeVar("Item")

Decided = Callable[[list[bytes], Tensor], None]
"""Told the keys of prompts (`prompt_key`) and the log-probabilities of what follows on them, [batch, vocabulary]."""

Pair = tuple[Any, list[int], list[int]]
"""The harness's request of a log-likelihood: (strings, context ids, continuation ids)."""

Row = tuple[tuple[int, tuple[int, ...]], list[tuple[int, list[int]]]]
"""Of a batch of log-likelihoods: (context length, input ids), and its continuations by request."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The harness warns of every model and data set that is given in memory: not here."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class LiveLM(HFLM):  # type: ignore[misc]
    """A causal LM in memory, for the harness. `seed` may be set before each run."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        batch_tokens: int | None = None,
    ) -> None:
        with quiet():
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self._batch_tokens = batch_tokens
        self.positions = TokenPositions()
        self.prefixes = Prefixes(self.model, self.positions.unwatched)
        self.shares_prefixes = False
        """Whether prompts but for their last tokens are read once for many runs: an edit must leave them alone."""
        self.decided: Decided | None = None
        """Who is told the scores of the tokens that follow on prompts."""
        self._continues = not is_recurrent(model)  # not every recurrent block can read several tokens on
        self._end_tokens = end_tokens(model, tokenizer)
        self._encoded: dict[str, Ids] = {}
        self._choices: dict[tuple[str, str], Tokens] = {}
        self._sampled: list[Ids] = []
        self.written: list[Ids] = []
        """The token ids of the last `generate_until`'s answers, as they were sampled."""
        self.start(seed=0)

    def start(self, seed: int) -> None:
        """Begin a run: its answers follow from the seed."""
        self._seed = seed
        self._occurrences: Counter[bytes] = Counter()

    @property
    def precision(self) -> str:
        """The coarsest precision of the model's weights, as in `bfloat16`."""
        kinds = {weight.dtype for weight in self.model.parameters() if weight.is_floating_point()}
        return str(min(kinds, key=lambda kind: (kind.itemsize, str(kind)))).removeprefix("torch.")

    @property
    def sequences(self) -> int | None:
        """Sequences per batch at most."""
        return int(self.batch_size)

    @contextlib.contextmanager
    def in_batches_of(self, size: int) -> Iterator[None]:
        """While the block lasts, batches have `size` sequences at most."""
        usual = int(self.batch_size)
        self.batch_size_per_gpu = size
        try:
            yield
        finally:
            self.batch_size_per_gpu = usual

    # ------------------------------------------------------------------------------- log-likelihood

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **kwargs: Any
    ) -> Ids:
        """As HFLM's; remembered, because one model's items are run many times."""
        if add_special_tokens is not None or left_truncate_len or kwargs:
            return list(super().tok_encode(string, add_special_tokens, left_truncate_len, **kwargs))
        if string not in self._encoded:
            self._encoded[string] = encode(self.tokenizer, string)
        return self._encoded[string]

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Ids and mask of texts, [batch, length]. HFLM lets a batch's first text decide on the others' BOS."""
        rows = [self.tok_encode(text)[-left_truncate_len if left_truncate_len else None :] for text in strings]
        lay_out = pad_left if padding_side == "left" else pad
        found = lay_out(rows, "cpu", fill=self.tokenizer.pad_token_id)
        return found.ids_BT, found.mask_BT

    def encode_choice(self, context: str, continuation: str, where: str) -> Tokens:
        """Return the ids of a choice as they are scored. Raises StudyError if it cannot be; `where` names it."""
        key = (context, continuation)
        if key not in self._choices:
            self._choices[key] = encode_choice(self.tokenizer, context, continuation, where, self.max_length)
        return self._choices[key]

    def _encode_pair(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        return encode_pair(self.tokenizer, context, continuation)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of every request's continuation.

        Raises StudyError, before anything is scored, if a continuation has no token of its own.
        """
        pairs: list[Pair] = []
        for request in requests:
            context, continuation = request.args
            pairs.append((request.args, *self.encode_choice(context, continuation, where_of(request))))
        return self._loglikelihood_tokens(pairs)

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of every continuation; requests that share their input share a row."""
        rows: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
        for index, (_, context, continuation) in enumerate(requests):
            ids = (context + continuation)[-(self.max_length + 1) :]
            rows[len(ids) - len(continuation), tuple(ids[:-1])].append(index)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        ordered = sorted(rows.items(), key=lambda row: (-len(row[0][1]), row[0][1]))
        for batch in batches(ordered, lambda row: len(row[0][1]), self.batch_size, self._batch_tokens):
            self._score([(key, [(i, requests[i][2]) for i in wanted]) for key, wanted in batch], found)
        return found

    def _score(
        self,
        batch: list[Row],
        found: list[tuple[float, bool]],
    ) -> None:
        """One batch of rows: (context length, input ids) and its continuations by request."""
        places = self._places_shared(batch) if self.shares_prefixes and self._continues else self._places(batch)
        for ((context, ids), wanted), scores_TV in zip(batch, places, strict=True):
            if self.decided:
                self.decided([prompt_key(ids[:context])], scores_TV[:1])
            best_T = scores_TV.argmax(-1)
            for index, continuation in wanted:
                target_T = torch.tensor(continuation, device=self.device)
                score = scores_TV.gather(1, target_T[:, None]).sum()
                found[index] = (float(score), bool((best_T == target_T).all()))

    def _places(self, batch: list[Row]) -> Iterator[Tensor]:
        """Log-probabilities from a row's last context token on, [continuation, vocabulary], row by row."""
        lengths = torch.tensor([len(ids) for (_, ids), _ in batch], device=self.device)
        contexts = torch.tensor([context for (context, _), _ in batch], device=self.device)
        ids_BT = pad([ids for (_, ids), _ in batch], self.device).ids_BT
        self.positions.pairs(ids_BT, contexts, lengths)
        first = int(contexts.min()) - 1  # the vocabulary's scores are not needed before any row's continuation
        kept = ids_BT.shape[1] - first
        logits_BTV = self.model(input_ids=ids_BT, use_cache=False, logits_to_keep=kept).logits
        self.positions.end()
        for ((context, ids), _), logits_TV in zip(batch, logits_BTV, strict=True):
            yield torch.log_softmax(logits_TV[context - 1 - first : len(ids) - first].float(), dim=-1)

    def _places_shared(self, batch: list[Row]) -> Iterator[Tensor]:
        """As `_places`, the contexts but for their last tokens read once for many runs."""
        longest = max(context for (context, _), _ in batch)
        padded = pad([ids for (_, ids), _ in batch], self.device, [longest - context for (context, _), _ in batch])
        ids_BT, mask_BT = padded.ids_BT, padded.mask_BT
        cache = self.prefixes.of(ids_BT[:, :longest], mask_BT[:, :longest])
        self.positions.continuations(ids_BT, mask_BT, longest)
        logits_BTV = self.model(
            input_ids=ids_BT[:, longest - 1 :],
            position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0)[:, longest - 1 :],
            **cache_inputs(self.model, cache, mask_BT, ids_BT.shape[1] - longest + 1),
        ).logits
        self.positions.end()
        for ((context, ids), _), logits_TV in zip(batch, logits_BTV, strict=True):
            yield torch.log_softmax(logits_TV[: len(ids) - context + 1].float(), dim=-1)

    @torch.no_grad()
    def decide(self, prompts: Sequence[Sequence[int]]) -> None:
        """Tell `decided` what follows on prompts, given as token ids; their beginnings are read once for many calls."""
        ordered = sorted(prompts, key=len, reverse=True)
        for batch in batches(ordered, len, self.batch_size, self._batch_tokens):
            padded = pad_left(batch, self.device)
            ids_BT, mask_BT = padded.ids_BT, padded.mask_BT
            start, first = self.prefixes.of(ids_BT, mask_BT), partial(self._first, ids_BT, mask_BT)
            for _ in decode(self.model, ids_BT, mask_BT, 1, _at_once, Choice(), self.positions, start, first):
                pass

    # ------------------------------------------------------------------------------------ generation

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """As HFLM's, without its progress bar, and with `batch_tokens` as the limit of a batch.

        `written` then has the answers' token ids.
        """
        found, self.written = [""] * len(requests), [[] for _ in requests]
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[json.dumps(request.args[1], sort_keys=True)].append(index)
        for group in groups.values():
            prompts = [self.tok_encode(requests[index].args[0]) for index in group]
            new = requests[group[0]].args[1].get("max_gen_toks", self.max_gen_toks)
            length = {index: len(ids) + new for index, ids in zip(group, prompts, strict=True)}
            # HFLM's own order, so that it leaves a batch's rows as they are
            ordered = sorted(group, key=lambda index: (-length[index], requests[index].args[0]))
            for batch in batches(ordered, length.__getitem__, self.batch_size, self._batch_tokens):
                texts = super().generate_until([requests[index] for index in batch], True)
                for index, text, ids in zip(batch, texts, self._sampled, strict=True):
                    found[index], self.written[index] = text, written_ids(self.tokenizer, ids, text)
        return found

    @torch.no_grad()
    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """Answers of a batch of prompts, [batch, prompt + answer], as HFLM wants them."""
        mask_BT = generation_kwargs["attention_mask"]
        steps = max_length - context.shape[1]
        sampled = generation_kwargs.get("do_sample") is not False
        temperature = float(generation_kwargs.get("temperature", 0.0)) if sampled else 0.0
        uniform_BS = self._uniforms(context, mask_BT, steps) if temperature else None
        strings = [text for text in stop if text != self.tokenizer.eos_token]

        def ended(answer_BS: Tensor) -> Tensor:
            return have_ended(answer_BS, self._end_tokens, self.tokenizer, strings)

        answer_BS = context.new_full((len(context), steps), self.tokenizer.pad_token_id)
        choice = Choice(temperature, uniform_BS)
        start = self.prefixes.of(context, mask_BT) if self.shares_prefixes else None
        first = partial(self._first, context, mask_BT) if self.decided else None
        watched = (self.positions, start, first)
        length_B = context.new_zeros(len(context))
        for step, rows, tokens in decode(self.model, context, mask_BT, steps, ended, choice, *watched):
            answer_BS[rows, step] = tokens
            length_B[rows] = step + 1
        self._sampled = [ids[:length] for ids, length in zip(answer_BS.tolist(), length_B.tolist(), strict=True)]
        return torch.cat([context, answer_BS], dim=1)

    def _first(self, ids_BT: Tensor, mask_BT: Tensor, logits_BV: Tensor) -> None:
        assert self.decided is not None
        rows = zip(ids_BT.tolist(), mask_BT.sum(1).tolist(), strict=True)
        keys = [prompt_key(ids[len(ids) - length :]) for ids, length in rows]
        self.decided(keys, torch.log_softmax(logits_BV.float(), dim=-1))

    def _uniforms(self, ids_BT: Tensor, mask_BT: Tensor, steps: int) -> Tensor:
        """Uniform numbers, [batch, steps] float64; a prompt's sample is how often it has been asked in this run."""
        rows = zip(ids_BT.cpu().numpy(), mask_BT.cpu().numpy(), strict=True)
        prompts = [ids[mask.astype(bool)] for ids, mask in rows]
        samples = []
        for prompt in prompts:
            samples.append(self._occurrences[prompt.tobytes()])
            self._occurrences[prompt.tobytes()] += 1
        return uniforms(self._seed, prompts, samples, steps).to(ids_BT.device)


def _at_once(answer_BS: Tensor) -> Tensor:
    """Every answer ends with its first token."""
    return torch.ones(len(answer_BS), dtype=torch.bool, device=answer_BS.device)


def where_of(request: Any) -> str:
    """Return the task, item and choice of one of the harness's requests, for messages."""
    return f"task `{request.task_name}`, item `{request.doc_id}`, choice {request.idx + 1}"


def prompt_key(ids: Sequence[int]) -> bytes:
    """What a prompt is known by, from its token ids."""
    return hashlib.blake2b(np.asarray(ids, dtype=np.int64).tobytes(), digest_size=16).digest()


def batches(
    ordered: Sequence[Item], length: Callable[[Item], int], most: int, tokens: int | None
) -> Iterator[Sequence[Item]]:
    """Items in batches of `most` at most, and of so many tokens, padding included; a longer item is alone.

    They come ordered by length, the longest first, which a batch is padded to.
    """
    start = 0
    while start < len(ordered):
        fit = most if tokens is None else min(most, max(1, tokens // max(1, length(ordered[start]))))
        yield ordered[start : start + fit]
        start += fit
