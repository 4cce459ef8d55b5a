"""Whether a task's prompts and answers fit a model, in tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from rlgen.errors import StudyError
from rlgen.evaluation.engine import Engine
from rlgen.token_sets import encode, encode_pair

log = logging.getLogger("rlgen")


class Requests(Protocol):
    """A task's requests, as the harness builds them."""

    name: str
    multiple_choice: bool
    max_new_tokens: int
    """Tokens of a free answer."""

    @property
    def requests(self) -> Mapping[str, Sequence[Any]]:
        """The requests by item: one, or one a choice."""


def check_requests(task: Requests, lm: Engine) -> None:
    """Check a task before any item is asked, and warn of multiple-choice items that will be cut.

    Raises:
        StudyError: If a prompt leaves no room for its answer, or a choice cannot be scored, for example because it has
            no token of its own.
    """
    if task.multiple_choice:
        _check_choices(task, lm)
        return
    room = lm.max_length - task.max_new_tokens
    if room <= 0:
        raise StudyError(
            f"evaluation.max_new_tokens: {task.max_new_tokens} in task `{task.name}`; "
            f"the model's longest sequence, prompt included, is {lm.max_length}; set less, there or in the task"
        )
    for item, (request,) in task.requests.items():
        prompt = request.args[0]
        if not prompt and not lm.tok_encode(prompt):
            raise StudyError(
                f"task `{task.name}`, item `{item}`: its prompt is empty and the tokenizer has no beginning token, so "
                "nothing can be asked; write a prompt, or leave the item out"
            )
        length = len(lm.tok_encode(prompt)) if len(prompt.encode()) >= room else 0  # a token has a byte at least
        if length > room:
            raise StudyError(
                f"task `{task.name}`, item `{item}`: its prompt has {length} tokens; beside answers of "
                f"{task.max_new_tokens} the model has room for {room}; set a smaller max_new_tokens, or leave the item "
                "out"
            )


def _check_choices(task: Requests, lm: Engine) -> None:
    cut: dict[str, int] = {}
    for item, requests in task.requests.items():
        for number, request in enumerate(requests, start=1):
            context, continuation = request.args
            lm.encode_choice(context, continuation, f"task `{task.name}`, item `{item}`, choice {number}")
            if len((context + continuation).encode()) >= lm.max_length:
                length = len(encode_pair(lm.tokenizer, context, continuation).ids)
                if length > lm.max_length + 1:  # the last token is scored and not fed
                    cut[item] = max(length, cut.get(item, 0))
    if cut:
        first, length = next(iter(cut.items()))
        log.warning(
            "task `%s`: %d of %d items are longer than the model's %d tokens and are cut at their start, as the "
            "harness does, the first of them `%s` (%d)",
            *(task.name, len(cut), len(task.requests), lm.max_length, first, length),
        )


def longest_sequence(tasks: Sequence[Requests], tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokens of the longest request with its answer. vLLM generates one token after a choice."""
    return max(length for task in tasks for length in _lengths(task, tokenizer))


def _lengths(task: Requests, tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    for requests in task.requests.values():
        for request in requests:
            if task.multiple_choice:
                yield len(encode_pair(tokenizer, *request.args).ids) + 1
            else:
                yield len(encode(tokenizer, request.args[0])) + task.max_new_tokens
