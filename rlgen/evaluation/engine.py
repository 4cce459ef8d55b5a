"""What answers an evaluation: the live model, or vLLM, which is faster on GPUs and cannot be edited."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rlgen.errors import StudyError
from rlgen.models import locate


class Engine(Protocol):
    """A model behind the harness's interface; its answers follow from the seed it is started with."""

    @property
    def max_length(self) -> int:
        """Longest sequence, prompt and answer, in tokens."""

    def start(self, seed: int) -> None:
        """Begin a run."""

    def tok_encode(self, string: str) -> list[int]:
        """A text's token ids, as they are fed."""

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of every request's continuation."""

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer to every request."""


class VllmEngine:
    """vLLM by the harness's own class. A sample's random numbers follow from (seed, prompt, its number)."""

    def __init__(self, model: Path) -> None:
        """Load a model's folder, on all GPUs that are visible. Raises StudyError if vLLM is not installed."""
        where = locate(model)
        self._lm = _vllm()(
            pretrained=where.path,
            revision=where.revision,
            tokenizer_revision=where.revision,
            trust_remote_code=where.trust_remote_code,
            load_format="auto" if where.allow_pickle else "safetensors",
            tensor_parallel_size=_gpus(),
            batch_size="auto",
        )
        self.start(seed=0)

    @property
    def max_length(self) -> int:
        """Longest sequence, prompt and answer, in tokens."""
        return int(self._lm.max_length)

    def start(self, seed: int) -> None:
        """Begin a run: its answers follow from the seed."""
        self._seed = seed
        self._occurrences: Counter[str] = Counter()

    def tok_encode(self, string: str) -> list[int]:
        """A text's token ids, as they are fed."""
        return list(self._lm.tok_encode(string))

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of every request's continuation."""
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


def _vllm() -> Any:
    try:
        from lm_eval.models.vllm_causallms import VLLM
    except ImportError as error:
        raise StudyError(
            f"evaluation.engine: vllm cannot be imported ({error}); `pip install vllm`, or set `transformers`"
        ) from None
    return VLLM


def _gpus() -> int:
    import torch

    return max(torch.cuda.device_count(), 1)
