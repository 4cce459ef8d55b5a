"""Which positions of a running forward pass are prompt, its last token, or answer."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from rlgen.study.sections import TokenSet
from rlgen.token_sets import in_set


class TokenPositions:
    """The forward pass that is running now, as an edit of the residual stream needs to know it.

    Generation feeds the prompts first, padded on the left, then one new token a row at a time (from the cache); rows
    that have ended are dropped. Log-likelihood feeds context and continuation at once, padded on the right, the
    continuation's last token left out because nothing is predicted from it.
    """

    def __init__(self) -> None:
        self._sets: dict[str, Tensor] | None = None
        self._inputs: dict[str, Tensor]

    def mask(self, tokens: TokenSet) -> Tensor:
        """Bool [batch, position]: the positions of the running pass that belong to a token set.

        `prompt` has every prompt token (the beginning token too), `last_prompt` the one from which the answer's
        first token is predicted, `answer` the answer's tokens that are fed, `all` everything but padding. Raises
        RuntimeError outside a forward pass of the harness.
        """
        if self._sets is None:
            raise RuntimeError("no forward pass of the harness is running")
        return self._sets[tokens]

    def inputs(self) -> dict[str, Tensor]:
        """What another model, without a cache, would be fed to read the same texts, [batch, length] each.

        The running pass's positions are the last ones: `residuals(donor, [layer], **inputs())[:, -positions:]`.
        """
        return self._inputs

    def prefill(self, ids: Tensor, attention_mask: Tensor, fed: int | None = None) -> None:
        """Prompts, padded on the left, [batch, length]: their last `fed` tokens are about to be fed, or all."""
        there = attention_mask.bool()
        self._set(there, _places(attention_mask), there.sum(1, keepdim=True), fed)
        self._read(ids, attention_mask)

    def unwatched(self, ids: Tensor, attention_mask: Tensor) -> None:
        """Tokens that belong to no set are about to be fed, [batch, length]."""
        self._set(torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids), torch.zeros_like(ids))
        self._read(ids, attention_mask)

    def step(self, ids: Tensor, attention_mask: Tensor) -> None:
        """The last of `ids`, [batch, length], one new token a row, is about to be fed."""
        places = _places(attention_mask)
        self._set(attention_mask.bool(), places, places, 1)  # it comes after the whole prompt
        self._read(ids, attention_mask)

    def pairs(self, ids: Tensor, contexts: Tensor, lengths: Tensor) -> None:
        """Contexts with continuations, [batch, length] padded on the right, are about to be fed; [batch] each."""
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        there = places < lengths[:, None]
        self._set(there, places, contexts[:, None])
        self._read(ids, there.long())

    def continuations(self, ids: Tensor, attention_mask: Tensor, contexts: int) -> None:
        """Continuations, padded on the right, of contexts of `contexts` tokens, padded on the left, [batch, length].

        They are about to be fed with the contexts' last token before them.
        """
        prompts = attention_mask[:, :contexts].sum(1, keepdim=True)
        self._set(attention_mask.bool(), _places(attention_mask), prompts, ids.shape[1] - contexts + 1)
        self._read(ids, attention_mask)

    def texts(self, inputs: dict[str, Tensor], counts: Tensor) -> None:
        """Whole texts without prompts are about to be fed; `counts`, bool [batch, length], belong to `all` alone."""
        none = torch.zeros_like(counts)
        self._sets = {"prompt": none, "last_prompt": none, "answer": none, "all": counts}
        self._inputs = inputs

    def end(self) -> None:
        """No forward pass is running any more."""
        self._sets = None

    def _read(self, ids: Tensor, mask: Tensor) -> None:
        places = _places(mask).clamp(min=0)
        self._inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": places}

    def _set(self, there: Tensor, places: Tensor, prompts: Tensor, fed: int | None = None) -> None:
        """Take the sets of sequences, [batch, length], whose last `fed` tokens are about to be fed, or all."""
        shown = slice(-(fed or there.shape[1]), None)
        self._sets = {tokens: (in_set(tokens, places, prompts) & there)[:, shown] for tokens in get_args(TokenSet)}


def _places(mask: Tensor) -> Tensor:
    """Return each token's place in its own sequence, [batch, length]; padding on the left is -1."""
    return mask.cumsum(1) - 1
