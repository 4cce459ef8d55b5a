"""A model's activations on one shard of the corpus; its bits do not depend on what else is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlgen.activations.slices import Places, Slices
from rlgen.data.corpus import model_inputs
from rlgen.errors import StudyError
from rlgen.models import residuals

_LOOKED_THROUGH = 1024
"""Corpus rows among which one with two documents is looked for at a time."""
_MIXED = 0.05
"""Relative difference above which documents are not apart; rounding to bfloat16 makes less."""


@dataclass(frozen=True)
class Computed:
    """One shard's tokens in the order in which they are stored, on the model's device."""

    acts_NLD: Tensor
    """In the store's precision."""
    norm_NL: Tensor
    """Float32."""
    sum_LD: Tensor
    """Sum over the tokens, float64."""

    @property
    def bad(self) -> Tensor:
        """Which tokens and layers are not finite, [N, L]."""
        return ~torch.isfinite(self.norm_NL)


@torch.no_grad()
def compute(
    network: PreTrainedModel, slices: Slices, places_N: Places, layers: list[int], dtype: str, batch_rows: int
) -> Computed:
    """Residual streams at `places_N` of the flattened corpus; the blocks after the last layer are not run.

    Rows go through the model in order of their length, in batches of at most `batch_rows` cut to the longest, so that
    next to no padding is computed.
    """
    device, length = network.device, slices.row_length
    d = network.config.get_text_config().hidden_size
    acts_NLD = torch.empty(len(places_N), len(layers), d, dtype=getattr(torch, dtype), device=device)
    norm_NL = torch.empty(acts_NLD.shape[:2], device=device)
    sum_LD = torch.zeros(acts_NLD.shape[1:], dtype=torch.float64, device=device)
    order = np.argsort(places_N)
    rows, counts = np.unique(places_N // length, return_counts=True)
    edges = np.concatenate([[0], np.cumsum(counts)])
    used = np.count_nonzero(slices.documents[rows] >= 0, axis=1)
    by_length = np.argsort(-used, kind="stable")
    for chosen in np.array_split(by_length, -(-len(by_length) // batch_rows)):
        inputs = _inputs(slices, rows[chosen], int(used[chosen].max()), device)
        stored = np.concatenate([order[edges[row] : edges[row + 1]] for row in chosen])
        row = np.repeat(np.arange(len(chosen)), counts[chosen])
        column = places_N[stored] % length
        where_N, row_N, column_N = (torch.from_numpy(values).to(device) for values in (stored, row, column))
        found_NLD = residuals(network, layers, **inputs)[row_N, column_N].to(acts_NLD.dtype)
        acts_NLD[where_N] = found_NLD
        norm_NL[where_N] = torch.linalg.vector_norm(found_NLD, dim=-1, dtype=torch.float32)
        sum_LD += found_NLD.sum(dim=0, dtype=torch.float64)
    return Computed(acts_NLD, norm_NL, sum_LD)


@torch.no_grad()
def check_separation(network: PreTrainedModel, slices: Slices, layer: int) -> None:
    """Raises StudyError if the corpus keeps documents apart and the model does not.

    Not every architecture takes positions that start anew for the start of another document; those with ALiBi ignore
    them without a word.
    """
    if not slices.separate_documents:
        return
    for start in range(0, len(slices.documents), _LOOKED_THROUGH):
        documents = slices.documents[start : start + _LOOKED_THROUGH]
        rows = np.flatnonzero((documents[:, 1:] != documents[:, :-1]).any(axis=1))
        if len(rows):
            row = start + int(rows[0])
            break
    else:
        return
    numbers = slices.documents[row]
    begin = int(np.flatnonzero(numbers[1:] != numbers[:-1])[0]) + 1
    inputs = _inputs(slices, np.array([row]), slices.row_length, network.device)
    together = residuals(network, [layer], **inputs)[0, begin:, 0].float()
    alone = residuals(network, [layer], **{name: given[:, begin:] for name, given in inputs.items()})[0, :, 0].float()
    error = float((together - alone).norm() / alone.norm())
    if error > _MIXED:
        raise StudyError(
            f"corpus.separate_documents: {type(network).__name__} lets the documents of a row attend to one another "
            f"(activations differ by {error:.0%} from those of a document alone); set it to false"
        )


def _inputs(slices: Slices, rows: Places, length: int, device: torch.device) -> dict[str, Any]:
    given = model_inputs(slices.folder, rows)
    return {name: torch.from_numpy(values[:, :length]).to(device) for name, values in given.items()}
