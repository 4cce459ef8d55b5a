"""What a teacher writes with: transformers, which every machine has, or vLLM, which is made for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rlgen.models import load_model, locate
from rlgen.sampling import Choice, decode, end_tokens, have_ended, uniforms
from rlgen.serving import import_serving, vllm_arguments
from rlgen.stage import derive_seed
from rlgen.study.sections import Teacher
from rlgen.token_sets import Ids, pad_left


class Written(NamedTuple):
    """An answer."""

    text: str
    ended: bool
    """By itself, not for its length."""


class Engine(Protocol):
    """A model that answers prompts: what it writes follows from the seed, the prompt and the sample's number."""

    def write(self, prompts: Sequence[Ids], sample: int) -> list[Written]:
        """One answer to every prompt."""


def load_engine(teacher: Teacher, model: Path, tokenizer: PreTrainedTokenizerBase, seed: int, longest: int) -> Engine:
    """The engine that the settings name, for prompts of `longest` tokens. Raises StudyError if it cannot be had."""
    if teacher.engine == "vllm":
        return VllmEngine(teacher, model, seed, longest)
    return TransformersEngine(teacher, model, tokenizer, seed)


class TransformersEngine:
    """The same bytes on every run. What shares a batch changes next to nothing in float32, and some answers in bfloat16
    and float16 (`rlgen.sampling`)."""

    def __init__(self, teacher: Teacher, model: Path, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self._teacher, self._tokenizer, self._seed = teacher, tokenizer, seed
        self._model = load_model(model)
        self._ends = end_tokens(self._model, tokenizer)

    @torch.no_grad()
    def write(self, prompts: Sequence[Ids], sample: int) -> list[Written]:
        """One answer to every prompt, all in one batch."""
        steps = self._teacher.max_new_tokens
        padded = pad_left(prompts, self._model.device, fill=self._tokenizer.pad_token_id)
        answers: list[Ids] = [[] for _ in prompts]
        found = decode(
            self._model,
            padded.ids_BT,
            padded.mask_BT,
            steps,
            lambda answer_BS: have_ended(answer_BS, self._ends, self._tokenizer),
            self._choice(prompts, sample, steps),
        )
        for _, rows, tokens in found:
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                answers[row].append(token)
        return [self._written(answer) for answer in answers]

    def _choice(self, prompts: Sequence[Ids], sample: int, steps: int) -> Choice:
        if self._teacher.temperature == 0:
            return Choice()
        arrays = [np.array(prompt, dtype=np.int64) for prompt in prompts]
        uniform_BS = uniforms(self._seed, arrays, [sample] * len(prompts), steps).to(self._model.device)
        return Choice(self._teacher.temperature, uniform_BS, self._teacher.top_p)

    def _written(self, answer: Ids) -> Written:
        ended = answer[-1] in self._ends
        text = self._tokenizer.decode(answer[:-1] if ended else answer, skip_special_tokens=True)
        return Written(text, ended)


class VllmEngine:
    """vLLM on all GPUs that are visible. How it batches is its own affair, and so is the last bit of its numbers."""

    def __init__(self, teacher: Teacher, model: Path, seed: int, longest: int) -> None:
        """Load the model for prompts of `longest` tokens at most. Raises StudyError if vLLM is not installed."""
        self._teacher, self._seed, self._vllm = teacher, seed, import_serving("vllm", "teacher.engine")
        arguments = vllm_arguments(model, longest + teacher.max_new_tokens)
        self._model = self._vllm.LLM(model=locate(model).path, **arguments)

    def write(self, prompts: Sequence[Ids], sample: int) -> list[Written]:
        """One answer to every prompt."""
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        settings = [self._settings(prompt, sample) for prompt in prompts]
        found = [output.outputs[0] for output in self._model.generate(asked, settings, use_tqdm=False)]
        return [Written(answer.text, answer.finish_reason == "stop") for answer in found]

    def _settings(self, prompt: Ids, sample: int) -> Any:
        return self._vllm.SamplingParams(
            temperature=self._teacher.temperature,
            top_p=self._teacher.top_p,
            max_tokens=self._teacher.max_new_tokens,
            seed=derive_seed(self._seed, sample, prompt),
        )
