"""Caches of causal LMs: make one, continue it, drop rows of it, copy it.

Attention keeps keys and values and grows them by new tensors. Recurrent blocks (Mamba, gated delta nets, short
convolutions) keep a state that every forward pass changes in place. The functions here are right for both.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import (
    DummyLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from rlgen.errors import StudyError

_ARGUMENTS = ("past_key_values", "cache_params")
"""Names under which a model's `forward` takes its cache; the second one is of models without any attention."""
_GROWING = (DynamicLayer, DynamicSlidingWindowLayer, DynamicIndexedLayer, DummyLayer)
"""Layers that a forward pass extends by new tensors, so that a copy may share the old ones."""


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """Return an empty cache for a model. Raises StudyError if the model takes none."""
    _argument(model)
    return DynamicCache(config=model.config)


def cache_inputs(model: PreTrainedModel, cache: Cache, mask_BT: Tensor, fed: int) -> dict[str, Any]:
    """Return what `model` is given beside token ids and positions to read on from a cache.

    Args:
        model: The model.
        cache: What it has read so far; the forward pass extends it.
        mask_BT: Which tokens are no padding, of all tokens read so far and of those about to be fed.
        fed: Number of tokens about to be fed, the last ones of the mask.

    Returns:
        The cache under the name that the model knows, the attention mask, and `use_cache`.

    Raises:
        StudyError: The model takes no cache.
    """
    name = _argument(model)
    # a model without attention multiplies its inputs by the mask, so that both must be of the same length
    mask = mask_BT[:, mask_BT.shape[1] - fed :] if name == "cache_params" else mask_BT
    return {name: cache, "attention_mask": mask, "use_cache": True}


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Keep only these rows of a batch, in this order; a row may be named several times."""
    cache.reorder_cache(rows)  # unlike `batch_select_indices`, it knows the states of recurrent layers


def copied(cache: Cache) -> Cache:
    """Return a copy that can be read on from without altering the cache. Unchanging tensors are shared."""
    if type(cache) is not DynamicCache:
        return copy.deepcopy(cache)
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) if type(layer) in _GROWING else copy.deepcopy(layer) for layer in cache.layers]
    return found


def is_recurrent(model: PreTrainedModel) -> bool:
    """Return whether any of a model's blocks keeps a recurrent state."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in new_cache(model).layers)


def _argument(model: PreTrainedModel) -> str:
    known = inspect.signature(type(model).forward).parameters  # a model's own `forward` may be wrapped
    for name in _ARGUMENTS:
        if name in known or "input_ids" not in known:  # a wrapper that passes everything on
            return name
    raise StudyError(
        f"{type(model).__name__}: its forward pass takes no cache (`past_key_values`), so it cannot answer token by "
        "token; use another architecture"
    )
