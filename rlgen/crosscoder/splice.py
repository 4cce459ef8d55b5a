"""What a reconstruction is worth to the model itself: next-token cross-entropy with x^ in the place of x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from rlgen.crosscoder.model import Crosscoder
from rlgen.data.corpus import model_inputs, read_corpus
from rlgen.models import edited, load_model, residuals
from rlgen.paths import model_name

TOKENS = 16384
"""Corpus tokens on which cross-entropy is measured, in rows evenly spread."""
_BATCH_TOKENS = 2048
"""Tokens per forward pass: their logits over the vocabulary are in memory."""

CrossEntropy = dict[str, float]


@dataclass(frozen=True)
class Rows:
    """Some rows of the corpus: what a model is given of them, and which tokens count (no BOS, no padding)."""

    inputs: dict[str, Tensor]
    counts_BT: Tensor

    @property
    def ids_BT(self) -> Tensor:
        """Token ids."""
        return self.inputs["input_ids"]

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """The model's inputs on its device."""
        return {name: values.to(device) for name, values in self.inputs.items()}

    @classmethod
    def of(cls, corpus: Path, tokens: int = TOKENS) -> Rows:
        """Rows of about so many tokens, evenly spread over the corpus."""
        _, ids, _, mask = read_corpus(corpus)
        count = max(1, min(len(ids), tokens // ids.shape[1]))
        chosen = np.arange(count) * len(ids) // count
        inputs = {name: torch.from_numpy(values) for name, values in model_inputs(corpus, chosen).items()}
        return cls(inputs, torch.from_numpy(mask[chosen]))

    def batches(self, tokens: int = _BATCH_TOKENS) -> list[Rows]:
        """The same rows in batches of about so many tokens."""
        size = max(1, tokens // self.ids_BT.shape[1])
        cuts = [slice(start, start + size) for start in range(0, len(self.ids_BT), size)]
        return [Rows({k: v[cut] for k, v in self.inputs.items()}, self.counts_BT[cut]) for cut in cuts]


@torch.no_grad()
def recovered_cross_entropy(crosscoder: Crosscoder, models: Sequence[Path], corpus: Path) -> dict[str, CrossEntropy]:
    """Next-token cross-entropy in nats of every model: clean, spliced, mean-ablated; and the share recovered.

    `spliced` puts x^ in the place of x at the crosscoder's layer, `mean_ablated` the mean activation; `recovered`
    is the share of the gap between clean and mean-ablated that splicing closes. BOS, padding and tokens that are
    outliers in any model stay as they are: the crosscoder was not fitted on them.
    """
    folders = {model_name(path): path for path in models}
    loaded = {name: load_model(folders[name]) for name in dict.fromkeys(crosscoder.config.models)}
    sums = {slot: np.zeros(4) for slot in crosscoder.config.slots}
    for rows in Rows.of(corpus).batches():
        reconstructed_BTMD, edited_BT = _reconstruct(crosscoder, loaded, rows)
        for slot, (name, key) in enumerate(zip(crosscoder.config.models, crosscoder.config.slots, strict=True)):
            model, mean_D = loaded[name], crosscoder.mean[slot]
            clean = cross_entropy_of(model, rows)
            spliced = _replaced(model, crosscoder.config.layer, rows, reconstructed_BTMD[:, :, slot], edited_BT)
            ablated = _replaced(model, crosscoder.config.layer, rows, mean_D, edited_BT)
            sums[key] += np.array([clean, spliced, ablated, int(rows.counts_BT[:, 1:].sum())])
    return {key: _shares(*(values[:3] / values[3]).tolist()) for key, values in sums.items()}


def _shares(clean: float, spliced: float, ablated: float) -> CrossEntropy:
    gap = ablated - clean
    recovered = (ablated - spliced) / gap if gap else 1.0
    return {"clean": clean, "spliced": spliced, "mean_ablated": ablated, "recovered": recovered}


def _reconstruct(crosscoder: Crosscoder, models: dict[str, PreTrainedModel], rows: Rows) -> tuple[Tensor, Tensor]:
    """x^ of every slot at every place, [B, T, M, d], and the places that are to be replaced, [B, T]."""
    acts = {
        name: residuals(model, [crosscoder.config.layer], **rows.on(model.device))[:, :, 0]
        for name, model in models.items()
    }
    acts_BTMD = torch.stack([acts[name].to(crosscoder.mean) for name in crosscoder.config.models], dim=2)
    codes_NF = crosscoder.encode(acts_BTMD.flatten(0, 1))
    reconstructed_BTMD = crosscoder.decode(codes_NF).view_as(acts_BTMD)
    replaced_BT = rows.counts_BT.to(acts_BTMD.device)
    for slot, acts_BTD in enumerate(acts_BTMD.unbind(dim=2)):
        replaced_BT = replaced_BT & crosscoder.ordinary(acts_BTD, slot)
    return reconstructed_BTMD, replaced_BT


def _replaced(model: PreTrainedModel, layer: int, rows: Rows, by: Tensor, where_BT: Tensor) -> float:
    """Cross-entropy with `by` ([B, T, d] or [d]) in the place of the residual stream after `layer`."""
    with edited(model, layer, lambda acts_BTD: torch.where(where_BT[:, :, None], by.to(acts_BTD.dtype), acts_BTD)):
        return cross_entropy_of(model, rows)


def cross_entropy_of(model: PreTrainedModel, rows: Rows) -> float:
    """Next-token cross-entropy in nats, summed over the tokens that count."""
    logits_BTV = model(**rows.on(model.device), use_cache=False).logits[:, :-1]
    counts_N = rows.counts_BT[:, 1:].flatten().to(model.device)
    targets_N = rows.ids_BT[:, 1:].flatten().to(model.device)
    return float(cross_entropy(logits_BTV.flatten(0, 1)[counts_N].float(), targets_N[counts_N], reduction="sum"))
