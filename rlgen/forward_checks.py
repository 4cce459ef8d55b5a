"""Checks of a causal LM by forward passes: that it answers rightly in every way in which the stages ask it.

Every check compares what a stage does (a cache, a batch padded on the left, shared prefixes, packed documents) with a
plain forward pass of the same tokens. A difference is the norm of the difference of a token's scores, as a share of
the norm of the scores around their mean:

- float32 and float64: at most 0.001 at every token. Rounding makes about 0.0001 or less.
- bfloat16 and float16: at most 0.05 at the median token of a sequence, or three times what sharing a batch changes, if
  that is more. Rounding makes about 0.01 to 0.03, and more at single tokens of a mixture of experts, where it can
  choose another expert.

Scores are compared, and not chosen tokens: in low precision two tokens may be equally likely. The tokens are random,
but always the same for a vocabulary, and few: the check of a model takes about 40 short forward passes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.caches import cache_inputs, is_recurrent, new_cache
from rlgen.errors import StudyError
from rlgen.evaluation.prefixes import Prefixes
from rlgen.models import decoder_blocks, residuals
from rlgen.sampling import Choice, decode, end_tokens

_TOLERANCE, _LOW_TOLERANCE = 1e-3, 0.05
"""Largest difference in float32 and float64, and in lower precision."""
_ROUNDING = 3.0
"""In low precision, the largest difference as a multiple of what sharing a batch changes."""
_LENGTH = 24
"""Tokens of a sequence, or as many as the model takes."""
_FIRST = 3
"""Tokens of a document that see most of the document before it, if they see it."""
_WINDOW = 600
"""A sliding window is left behind in the check of the cache if it is at most so long."""
_STEPS = 8
"""Tokens that are read or written one at a time."""


class Probe:
    """A model with a few tokens to try it on."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        rows = model.get_input_embeddings().weight.shape[0]
        special = {*tokenizer.all_special_ids, *end_tokens(model, tokenizer)}
        known = sorted({index for index in tokenizer.get_vocab().values() if index < rows} - special)
        self._known = known or list(range(rows))
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _LENGTH
        self.limit = int(limit)
        self.length = min(_LENGTH, self.limit)
        self.exact = model.dtype in (torch.float32, torch.float64)

    def ids(self, length: int, seed: int = 0) -> list[int]:
        """Random tokens, the same whenever they are asked for."""
        return random.Random(seed).choices(self._known, k=max(1, length))

    def tensor(self, rows: list[list[int]]) -> Tensor:
        """Rows of the same length on the model's device."""
        return torch.tensor(rows, device=self.model.device)

    def padded(self, rows: list[list[int]], right: int = 0) -> tuple[Tensor, Tensor]:
        """Token ids and mask, padded on the left, and with `right` tokens of padding on the right."""
        longest = max(map(len, rows))
        ids = [[0] * (longest - len(row)) + row + [0] * right for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) + [0] * right for row in rows]
        return self.tensor(ids), self.tensor(mask)

    def plain(self, ids: list[int]) -> Tensor:
        """The scores after each token of a single sequence, [length, vocabulary], without cache and padding."""
        scores_TV: Tensor = self.model(input_ids=self.tensor([ids]), use_cache=False).logits[0]
        return scores_TV

    def differ(self, found_TV: Tensor, wanted_TV: Tensor) -> float | None:
        """How much scores differ, if that is more than rounding makes."""
        error = self._error(found_TV, wanted_TV)
        return None if error <= self._tolerance else error

    def _error(self, found_TV: Tensor, wanted_TV: Tensor) -> float:
        found_TV, wanted_TV = found_TV.float(), wanted_TV.float()
        scale_T = (wanted_TV - wanted_TV.mean(-1, keepdim=True)).norm(dim=-1)
        error_T = (found_TV - wanted_TV).norm(dim=-1) / scale_T.clamp(min=1e-30)
        return float(error_T.max() if self.exact else error_T.median())

    @cached_property
    def _tolerance(self) -> float:
        if self.exact:
            return _TOLERANCE
        rows = [self.ids(self.length, seed=20 + row) for row in range(4)]
        together_BTV = self.model(input_ids=self.tensor(rows), use_cache=False).logits
        errors = [self._error(found, self.plain(row)) for found, row in zip(together_BTV, rows, strict=True)]
        return max(_LOW_TOLERANCE, _ROUNDING * max(errors))


def blocks_found(probe: Probe) -> str | None:
    """The decoder blocks are found, and reading them leaves the scores alone."""
    if getattr(probe.model.config, "is_encoder_decoder", False):
        return (
            f"{type(probe.model).__name__} has an encoder, and the stages read decoders alone; use a decoder-only model"
        )
    depth = len(decoder_blocks(probe.model))
    ids = probe.tensor([probe.ids(probe.length)])
    found = residuals(probe.model, [1, depth], input_ids=ids)
    if found.shape[:3] != (1, probe.length, 2):
        return f"the residual stream after block 1 has the shape {list(found.shape)}; the architecture is not known"
    return None


def scores_plausible(probe: Probe) -> str | None:
    """Scores are finite, depend on the input, and there is one for every token."""
    scores_TV = probe.plain(probe.ids(probe.length)).float()
    if not torch.isfinite(scores_TV).all():
        return f"NaN or infinite logits, though all weights are finite, in {probe.model.dtype}; try another precision"
    if float(scores_TV.std(dim=-1).max()) == 0:
        return "all tokens have the same logit, whatever the text; the weights are zero where they must not be"
    if probe.length > 1 and torch.equal(scores_TV, scores_TV[:1].expand_as(scores_TV)):
        return "the logits are the same after every text; the weights are zero where they must not be"
    return None


def no_look_ahead(probe: Probe) -> str | None:
    """A token's scores do not depend on later tokens, and the last ones can be had alone."""
    ids, cut = probe.ids(probe.length), probe.length // 2
    scores_TV = probe.plain(ids)
    other = probe.plain([*ids[:cut], *probe.ids(probe.length - cut, seed=1)])
    if cut and (error := probe.differ(other[:cut], scores_TV[:cut])):
        return (
            f"logits change by {error:.1%} with tokens that come later; {type(probe.model).__name__} is no causal LM, "
            "use a decoder-only model"
        )
    last = probe.model(input_ids=probe.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0]
    if last.shape[0] != 1 or probe.differ(last, scores_TV[-1:]):
        return f"{_of(probe)} ignores `logits_to_keep`; use another architecture"
    return None


def cached_equals_plain(probe: Probe) -> str | None:
    """Tokens that are read one at a time, from a cache, have the scores of a plain forward pass."""
    window = getattr(probe.model.config.get_text_config(), "sliding_window", None) or 0
    length = min(max(probe.length, window + _STEPS if window <= _WINDOW else 0), probe.limit)
    ids = probe.ids(length)
    begin = max(1, length - _STEPS)
    cache, mask_BT = new_cache(probe.model), torch.ones_like(probe.tensor([ids]))
    found = []
    for start, end in [(0, begin), *((place, place + 1) for place in range(begin, length))]:
        inputs = cache_inputs(probe.model, cache, mask_BT[:, :end], end - start)
        places = torch.arange(start, end, device=mask_BT.device)[None]
        found.append(probe.model(input_ids=probe.tensor([ids[start:end]]), position_ids=places, **inputs).logits[0])
    if error := probe.differ(torch.cat(found[1:] or found), probe.plain(ids)[begin if length > 1 else 0 :]):
        return f"logits from a cache differ by {error:.1%} from those of a plain forward pass; {_wrong(probe)}"
    return None


def batched_equals_single(probe: Probe) -> str | None:
    """Answers that are written in a batch, some of which end early, have the scores that each has alone."""
    steps = max(1, min(_STEPS, probe.limit // 2))
    longest = max(1, min(probe.length - 1, probe.limit - steps))
    prompts = [probe.ids(longest, seed=1), probe.ids(longest // 3, 2), probe.ids(longest // 2, 3), probe.ids(1, 4)]
    ids_BT, mask_BT = probe.padded(prompts)
    seen: list[Tensor] = []
    answers: list[list[int]] = [[] for _ in prompts]
    scores: list[list[Tensor]] = [[] for _ in prompts]

    def ended(answer_BS: Tensor) -> Tensor:
        """After four tokens a row in the middle ends, and after six the first one."""
        ends = torch.zeros(len(answer_BS), dtype=torch.bool, device=answer_BS.device)
        if (place := {4: 1, 6: 0}.get(answer_BS.shape[1])) is not None:
            ends[place] = True
        return ends

    hook = probe.model.register_forward_hook(lambda _module, _inputs, output: seen.append(output.logits[:, -1]))
    try:
        for _, rows, tokens in decode(probe.model, ids_BT, mask_BT, steps, ended, Choice()):
            for place, (row, token) in enumerate(zip(rows.tolist(), tokens.tolist(), strict=True)):
                answers[row].append(token)
                scores[row].append(seen[-1][place])
    finally:
        hook.remove()
    for prompt, answer, found in zip(prompts, answers, scores, strict=True):
        alone_TV = probe.plain([*prompt, *answer[:-1]])[len(prompt) - 1 :]
        if error := probe.differ(torch.stack(found), alone_TV):
            return f"logits of answers in a batch differ by {error:.1%} from those of each alone; {_wrong(probe)}"
    return None


def prefixes_equal_plain(probe: Probe) -> str | None:
    """Continuations of prompts that are read once and used twice have the scores of plain forward passes."""
    right = 0 if is_recurrent(probe.model) else max(1, min(4, probe.limit // 4))  # the stages never ask for more
    longest = max(1, min(probe.length, probe.limit - right))
    first, second = probe.ids(longest, seed=5), probe.ids(longest // 2, seed=6)
    prompts = [first, second, first, probe.ids(1, seed=7)]
    prefixes = Prefixes(probe.model, lambda _ids_BT, _mask_BT: None)
    for use in range(2):
        ends = [probe.ids(1 + (row + use) % right, seed=8 + row + use) if right else [] for row in range(len(prompts))]
        ids_BT, mask_BT = probe.padded(prompts, right)
        for row, end in enumerate(ends):
            ids_BT[row, longest : longest + len(end)] = torch.tensor(end)
            mask_BT[row, longest : longest + len(end)] = 1
        cache = prefixes.of(ids_BT[:, :longest], mask_BT[:, :longest])
        logits_BTV = probe.model(
            input_ids=ids_BT[:, longest - 1 :],
            position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0)[:, longest - 1 :],
            **cache_inputs(probe.model, cache, mask_BT, right + 1),
        ).logits
        found = [logits_TV[: len(end) + 1] for logits_TV, end in zip(logits_BTV, ends, strict=True)]
        wanted = [probe.plain([*prompt, *end])[len(prompt) - 1 :] for prompt, end in zip(prompts, ends, strict=True)]
        if error := probe.differ(torch.cat(found), torch.cat(wanted)):
            again = "" if use == 0 else "again "
            return f"logits after a prompt that is used {again}differ by {error:.1%} from a plain pass; {_wrong(probe)}"
    return None


def documents_apart(probe: Probe) -> str | None:
    """Check that documents in one row, whose positions each start at 0, do not attend to one another."""
    cut = probe.length // 2
    if not cut:
        return None
    ids, places = probe.ids(probe.length), [*range(cut), *range(probe.length - cut)]
    inputs = {"input_ids": probe.tensor([ids]), "position_ids": probe.tensor([places])}
    together = probe.model(**inputs, use_cache=False).logits[0, cut:]
    alone = probe.plain(ids[cut:])
    # a state fades, so the median of a whole document can miss in low precision what its first tokens show
    if error := probe.differ(together, alone) or probe.differ(together[:_FIRST], alone[:_FIRST]):
        return (
            f"{type(probe.model).__name__} lets the documents of a row see one another (logits differ by {error:.1%}); "
            "set `corpus.separate_documents: false`, or use another architecture"
        )
    return None


IN_TURN: dict[str, Callable[[Probe], str | None]] = {
    "logits finite": scores_plausible,
    "causal": no_look_ahead,
    "decoder blocks": blocks_found,
    "cached equals uncached": cached_equals_plain,
    "batched equals single": batched_equals_single,
    "shared prefixes equal plain passes": prefixes_equal_plain,
}
"""Checks by name; each builds on those before it."""


def tried(check: Callable[[Probe], str | None], probe: Probe) -> str | None:
    """Return what a check finds, or what it fails with; None if nothing is wrong."""
    try:
        return check(probe)
    except torch.OutOfMemoryError:
        raise
    except StudyError as error:
        return str(error)
    except Exception as error:  # an architecture that does not fit fails anywhere in its own code
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return f"{_of(probe)} fails ({reason}); {_wrong(probe)}"


def _of(probe: Probe) -> str:
    return type(probe.model).__name__


def _wrong(probe: Probe) -> str:
    return f"rlgen cannot use {_of(probe)} (docs/models.md lists what it can)"
