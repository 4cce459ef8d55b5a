"""What many runs over the same prompts share: the keys and values of every prompt but its last token."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

Unwatched = Callable[[Tensor, Tensor], None]
"""Told of token ids and mask, [batch, length] each, before they are fed: none of these tokens belongs to any set."""


class Prefixes:
    """Caches of prompts without their last token, computed once and handed out again.

    Only for runs that leave the residual stream of these tokens alone. All that were asked for are kept: who runs
    many prompts asks for a portion of them at a time, and clears in between.
    """

    def __init__(self, model: PreTrainedModel, unwatched: Unwatched) -> None:
        self._model, self._unwatched = model, unwatched
        self._kept: dict[bytes, tuple[DynamicCache, Tensor]] = {}

    def clear(self) -> None:
        """Forget all prompts."""
        self._kept.clear()

    @torch.no_grad()
    def of(self, ids_BT: Tensor, mask_BT: Tensor) -> DynamicCache:
        """The cache after all but the last of the tokens, which are padded on the left, as if just computed.

        Rows that are the same are computed once.
        """
        key = hashlib.sha256(ids_BT.cpu().numpy().tobytes() + mask_BT.cpu().numpy().tobytes()).digest()
        if key not in self._kept:
            both_B2T, row_B = torch.unique(torch.stack([ids_BT, mask_BT], dim=1), dim=0, return_inverse=True)
            self._kept[key] = self._computed(both_B2T[:, 0, :-1], both_B2T[:, 1, :-1]), row_B
        stored, row_B = self._kept[key]
        cache = copy.copy(stored)
        cache.layers = [copy.copy(layer) for layer in stored.layers]  # they grow by new tensors, and leave these alone
        if int(row_B.max()) + 1 < len(row_B) or not torch.equal(row_B, torch.arange(len(row_B), device=row_B.device)):
            cache.batch_select_indices(row_B)
        return cache

    def _computed(self, ids_BT: Tensor, mask_BT: Tensor) -> DynamicCache:
        cache = DynamicCache(config=self._model.config)
        if ids_BT.shape[1]:
            self._unwatched(ids_BT, mask_BT)
            self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=(mask_BT.cumsum(1) - 1).clamp(min=0),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return cache
