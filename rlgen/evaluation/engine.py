"""What answers an evaluation: the live model, or vLLM, which is faster on GPUs and cannot be edited."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from rlgen.models import load_tokenizer, locate
from rlgen.serving import import_serving, vllm_arguments
from rlgen.token_sets import Ids, Tokens, encode, encode_choice


class Engine(Protocol):
    """A model behind the harness's interface; its answers follow from the seed it is started with."""

    @property
    def max_length(self) -> int:
        """Longest sequence, prompt and answer, in tokens."""

    @property
    def precision(self) -> str:
        """The model's precision, as in `bfloat16`; `unknown` if the engine does not tell it."""

    @property
    def sequences(self) -> int | None:
        """Sequences per batch at most; None if the engine decides."""

    def in_batches_of(self, size: int) -> contextlib.AbstractContextManager[None]:
        """While the block lasts, batches have `size` sequences at most, if the engine can be told."""

    def start(self, seed: int) -> None:
        """Begin a run."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""

    @property
    def written(self) -> Sequence[Ids] | None:
        """Token ids of the last `generate_until`'s answers, as they were sampled; None if the engine has only text."""

    def tok_encode(self, string: str) -> Ids:
        """A prompt's token ids, as they are fed."""

    def encode_choice(self, context: str, continuation: str, where: str) -> Tokens:
        """A choice's token ids, as they are scored. Raises StudyError if it cannot be; `where` names it."""

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of every request's continuation."""

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer to every request."""


class VllmEngine:
    """vLLM by the harness's own class. A sample's random numbers follow from (seed, prompt, its number)."""

    def __init__(self, model: Path, longest: int) -> None:
        """Load a model's folder, on all GPUs that are visible, for sequences of `longest` tokens at most.

        Raises StudyError if vLLM is not installed.
        """
        found = import_serving("lm_eval.models.vllm_causallms", "evaluation.engine")
        self._model = model
        self._lm = found.VLLM(pretrained=locate(model).path, batch_size="auto", **vllm_arguments(model, longest))
        self.start(seed=0)

    @property
    def max_length(self) -> int:
        """Longest sequence, prompt and answer, in tokens."""
        return int(self._lm.max_length)

    @property
    def precision(self) -> str:
        """The model's precision, as in `bfloat16`; `unknown` if this release of vLLM does not tell it."""
        try:
            return str(self._lm.model.llm_engine.model_config.dtype).removeprefix("torch.")
        except AttributeError:
            return "unknown"

    @property
    def sequences(self) -> int | None:
        """None: vLLM decides what shares a batch."""
        return None

    def in_batches_of(self, size: int) -> contextlib.AbstractContextManager[None]:
        """Change nothing: fewer requests share other batches by themselves."""
        return contextlib.nullcontext()

    def start(self, seed: int) -> None:
        """Begin a run: its answers follow from the seed."""
        self._seed = seed
        self._occurrences: Counter[str] = Counter()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return load_tokenizer(self._model)

    written = None

    def tok_encode(self, string: str) -> Ids:
        """A prompt's token ids, as they are fed."""
        return encode(self.tokenizer, string)

    def encode_choice(self, context: str, continuation: str, where: str) -> Tokens:
        """A choice's token ids, as they are scored. Raises StudyError if it cannot be; `where` names it."""
        return encode_choice(self.tokenizer, context, continuation, where, self.max_length)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of every request's continuation: by vLLM, with the harness's own ids."""
        return list(self._lm.loglikelihood(list(requests), disable_tqdm=disable_tqdm)) if requests else []

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer to every request."""
        seeded = [self._seeded(request) for request in requests]
        return list(self._lm.generate_until(seeded, disable_tqdm=disable_tqdm)) if seeded else []

    def _seeded(self, request: Any) -> Any:
        prompt, settings = request.args
        sample = self._occurrences[prompt]
        self._occurrences[prompt] += 1
        key = hashlib.blake2b(f"{self._seed} {sample} {prompt}".encode(), digest_size=4).digest()
        found = copy.copy(request)
        found.arguments = (prompt, {**settings, "seed": int.from_bytes(key) >> 1})
        return found
