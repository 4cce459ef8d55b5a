"""What many runs over the same prompts share: the keys and values of every prompt but its last token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from rlgen.caches import cache_inputs, copied, keep_rows, new_cache

Unwatched = Callable[[Tensor, Tensor], None]
"""Told of token ids and mask, [batch, length] each, before they are fed: none of these tokens belongs to any set."""


class Prefixes:
    """Caches of prompts without their last token, computed once and handed out again.

    Only for runs that leave the residual stream of these tokens alone. All that were asked for are kept: who runs
    many prompts asks for a portion of them at a time, and clears in between.
    """

    def __init__(self, model: PreTrainedModel, unwatched: Unwatched) -> None:
        self._model, self._unwatched = model, unwatched
        self._kept: dict[bytes, tuple[Cache, Tensor]] = {}

    def clear(self) -> None:
        """Forget all prompts."""
        self._kept.clear()

    @torch.no_grad()
    def of(self, ids_BT: Tensor, mask_BT: Tensor) -> Cache:
        """Return the cache after all but the last of the tokens, which are padded on the left, as if just computed.

        Rows that are the same are computed once. What is done with the cache does not alter what is kept.
        """
        key = hashlib.sha256(ids_BT.cpu().numpy().tobytes() + mask_BT.cpu().numpy().tobytes()).digest()
        if key not in self._kept:
            both_B2T, row_B = torch.unique(torch.stack([ids_BT, mask_BT], dim=1), dim=0, return_inverse=True)
            self._kept[key] = self._computed(both_B2T[:, 0, :-1], both_B2T[:, 1, :-1]), row_B
        stored, row_B = self._kept[key]
        cache = copied(stored)
        if int(row_B.max()) + 1 < len(row_B) or not torch.equal(row_B, torch.arange(len(row_B), device=row_B.device)):
            keep_rows(cache, row_B)
        return cache

    def _computed(self, ids_BT: Tensor, mask_BT: Tensor) -> Cache:
        cache = new_cache(self._model)
        if ids_BT.shape[1]:
            self._unwatched(ids_BT, mask_BT)
            self._model(
                input_ids=ids_BT,
                position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
                logits_to_keep=1,
                **cache_inputs(self._model, cache, mask_BT, ids_BT.shape[1]),
            )
        return cache
