"""Turn prompts and answers into token ids, masks and positions. No other module does this (METHOD: tokens).

The rules are those of lm-evaluation-harness (`HFLM.tok_encode`, `_encode_pair` and `loglikelihood`), so that training,
evaluation, localisation and interventions agree with one another, and with the harness, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlgen.errors import StudyError
from rlgen.study.sections import TokenSet

Ids = list[int]


class Tokens(NamedTuple):
    """The token ids of a prompt, and of the answer that follows it."""

    prompt: Ids
    answer: Ids

    @property
    def ids(self) -> Ids:
        """Return the whole sequence."""
        return [*self.prompt, *self.answer]


# --------------------------------------------------------------------------------------------------- ids


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    """Return the ids of a text that a model is given from its first character on.

    The tokenizer adds its special tokens, such as a beginning token (BOS), unless the text already begins with that
    token written out. So there is never a second one.
    """
    return encode_all(tokenizer, [text])[0]


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Ids]:
    """Return what `encode` returns for each text. One call for many texts is faster."""
    first = prefix_token(tokenizer)
    written = None if first is None else tokenizer.decode(first)
    begun = [written is not None and text.startswith(written) for text in texts]
    found: list[Ids] = [[] for _ in texts]
    for has_first in (False, True):
        places = [place for place, has in enumerate(begun) if has == has_first]
        if places:
            chosen = [texts[place] for place in places]
            rows = tokenizer(chosen, add_special_tokens=not has_first, verbose=False)["input_ids"]
            for place, row in zip(places, rows, strict=True):
                found[place] = list(row)
    return found


def prefix_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token that stands in for an empty prompt: the beginning token, or else the end token."""
    first: int | None = tokenizer.bos_token_id
    return tokenizer.eos_token_id if first is None else first


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> Tokens:
    """Return the ids of a context and of a continuation that is to be scored, split as the harness splits them.

    White space at the end of the context goes to the continuation. The two are encoded together, and the continuation
    is what comes after as many tokens as the context alone has. The continuation can be empty.
    """
    if not context:
        found, first = _encode_inside(tokenizer, continuation), prefix_token(tokenizer)
        if first is None:
            return Tokens([], found)
        return Tokens([first], found[1:] if found[:1] == [first] else found)
    kept = context.rstrip()
    prompt, whole = encode_all(tokenizer, [kept, context + continuation])
    return Tokens(prompt, whole[len(prompt) :])


def encode_choice(
    tokenizer: PreTrainedTokenizerBase, context: str, continuation: str, where: str, longest: int | None = None
) -> Tokens:
    """Return the ids of a choice of a multiple-choice item, as they are scored.

    Args:
        tokenizer: The model's tokenizer.
        context: The item's prompt.
        continuation: The choice, with the delimiter before it.
        where: The task, item and choice, for messages.
        longest: The most tokens that the model can read. A longer pair loses tokens at its start, as in the harness.

    Returns:
        The context's and the continuation's ids. The last one is scored and never fed, so there may be one more than
        `longest`.

    Raises:
        StudyError: If the choice or the prompt has no token of its own, or the choice alone is too long.
    """
    found = encode_pair(tokenizer, context, continuation)
    if not found.answer:
        raise StudyError(
            f"{where}: the choice {continuation!r} has no token of its own, because the tokenizer joins it to the end "
            f"of the prompt (...{context[-20:]!r}); it cannot be scored: change how the prompt ends, change the "
            "choice, or leave the item out"
        )
    if not found.prompt:
        raise StudyError(
            f"{where}: the prompt {context!r} has no token, so nothing predicts the choice; write a prompt"
        )
    if longest is None:
        return found
    if len(found.answer) > longest:
        raise StudyError(
            f"{where}: the choice has {len(found.answer)} tokens, and the model reads {longest} at most; shorten the "
            "choice, or leave the item out"
        )
    return Tokens(found.prompt[-(longest + 1 - len(found.answer)) :], found.answer)


def encode_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> Tokens:
    """Return the ids of a prompt that a model is asked, and of a response that is known as text.

    The prompt's ids are those that generation is given (`encode`), whatever follows. The response's are what comes
    after them in the encoding of both together. Where that encoding does not begin with the prompt's ids, because a
    token spans the boundary, a model that was asked the prompt cannot have written it. The response is then encoded
    apart, in such a way that it decodes to the response after the prompt.
    """
    asked, whole = encode_all(tokenizer, [prompt, prompt + response])
    if not response:
        return Tokens(asked, [])
    if whole[: len(asked)] == asked:
        return Tokens(asked, whole[len(asked) :])
    return Tokens(asked, _encode_apart(tokenizer, asked, response))


def encode_example(tokenizer: PreTrainedTokenizerBase, prompt: str, solution: str) -> Tokens:
    """Return the ids that a model is trained on: a prompt as it is asked, a solution, and the end token."""
    found = encode_answer(tokenizer, prompt, solution)
    return Tokens(found.prompt, _ended(tokenizer, found.answer))


def encode_documents(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | tuple[str, str]]) -> list[Ids]:
    """Return the ids of documents that are read as plain text, each with the end token.

    A pair is a prompt and its solution, and has the ids of a training example. If one token marks both beginning and
    end, it stands at the end alone.
    """
    plain = iter(encode_all(tokenizer, [text for text in texts if isinstance(text, str)]))
    one_mark = document_beginning(tokenizer) != tokenizer.bos_token_id
    found = []
    for text in texts:
        ids = _ended(tokenizer, next(plain) if isinstance(text, str) else encode_example(tokenizer, *text).ids)
        found.append(ids[1:] if one_mark and len(ids) > 1 and ids[0] == tokenizer.bos_token_id else ids)
    return found


def document_beginning(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token that only begins documents; None if there is none, or if it also ends them."""
    first: int | None = tokenizer.bos_token_id
    return None if first == tokenizer.eos_token_id else first


def encode_chat(tokenizer: PreTrainedTokenizerBase, message: str) -> Ids:
    """Return the ids of a user's message in the tokenizer's chat template, up to where the assistant begins.

    The template alone says which special tokens there are. A beginning token that is written out at the start of the
    message is left out, because the template has its own.
    """
    first = tokenizer.bos_token
    asked = [{"role": "user", "content": message.removeprefix(first) if first else message}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    return _encode_inside(tokenizer, str(text))


def written_ids(tokenizer: PreTrainedTokenizerBase, sampled: Ids, text: str) -> Ids:
    """Return the first of the sampled ids that together write `text`, which may have been cut at a stop string."""
    kept = len(sampled) if text else 0
    while kept and tokenizer.decode(sampled[: kept - 1], skip_special_tokens=True).startswith(text):
        kept -= 1
    return sampled[:kept]


def _encode_inside(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    """Return a text's ids without the special tokens that mark a beginning."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


_ANCHORS = ("", "\n", "a", ".", " a")
"""Texts before which nothing is left out, or after which a tokenizer adds no prefix space."""


def _encode_apart(tokenizer: PreTrainedTokenizerBase, prompt: Ids, response: str) -> Ids:
    """Return ids that decode to the response when they follow the prompt's; those of the text alone if there are none.

    A tokenizer that puts a space before every text would put one before the response, so it is also tried after texts
    that are then cut off.
    """
    before = _decode(tokenizer, prompt)
    for anchor in _ANCHORS:
        start, whole = (_encode_inside(tokenizer, text) for text in (anchor, anchor + response))
        found = whole[len(start) :]
        if whole[: len(start)] == start and _decode(tokenizer, [*prompt, *found]) == before + response:
            return found
    return _encode_inside(tokenizer, response)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> str:
    """Return the text of ids as it is, without tidying."""
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _ended(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> Ids:
    """Return ids with the end token as their last, where the tokenizer has one."""
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


# ----------------------------------------------------------------------------------- masks and positions


def in_set(tokens: TokenSet, place: Any, prompt: Any) -> Any:
    """Return whether a token belongs to a token set.

    Args:
        tokens: The token set: `prompt`, `last_prompt` (from which the answer's first token is predicted), `answer`, or
            `all`.
        place: The token's place in its sequence, padding not counted; a number, or a tensor of them.
        prompt: How many tokens the prompt has; a number, or a tensor that broadcasts.
    """
    if tokens == "last_prompt":
        return place == prompt - 1
    if tokens == "all":
        return place >= 0
    return place < prompt if tokens == "prompt" else place >= prompt


def not_beginning(ids: Any, bos: int | None) -> Any:
    """Return which of an array or tensor of ids are no beginning token, bool of the same shape.

    The residual stream at a beginning token is like no other, so it is left out of the corpus, codes and edits.
    """
    return ids >= 0 if bos is None else ids != bos


def counting(tokens: TokenSet, sequence: Tokens, bos: int | None, chosen: bool = False) -> list[bool]:
    """Return which tokens of a sequence count for a token set: those where an edit at this set would act.

    The beginning token never counts. `chosen` says that the answer is a choice that was scored: its last token is never
    fed to a model, so it does not count either.
    """
    fed = len(sequence.ids) - chosen
    return [
        bool(place < fed and id_ != bos and in_set(tokens, place, len(sequence.prompt)))
        for place, id_ in enumerate(sequence.ids)
    ]


@dataclass(frozen=True)
class Padded:
    """Sequences padded to the longest, [batch, position] each."""

    ids_BT: Tensor
    there_BT: Tensor
    """Bool: no padding."""

    @property
    def mask_BT(self) -> Tensor:
        """The attention mask."""
        return self.there_BT.long()


def pad(
    rows: Sequence[Sequence[int]], device: torch.device | str, left: Sequence[int] | None = None, fill: int = 0
) -> Padded:
    """Lay sequences out as one batch, with `left` free places before each row. `fill` stands in free places."""
    starts = [0] * len(rows) if left is None else left
    width = max((start + len(row) for start, row in zip(starts, rows, strict=True)), default=0)
    ids_BT = torch.full((len(rows), width), fill, dtype=torch.long)
    there_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for place, (start, row) in enumerate(zip(starts, rows, strict=True)):
        ids_BT[place, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        there_BT[place, start : start + len(row)] = True
    return Padded(ids_BT.to(device), there_BT.to(device))


def pad_left(rows: Sequence[Sequence[int]], device: torch.device | str, fill: int = 0) -> Padded:
    """Lay sequences out so that all end at the batch's last position."""
    longest = max(map(len, rows), default=0)
    return pad(rows, device, [longest - len(row) for row in rows], fill)
