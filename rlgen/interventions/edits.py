"""Edits of the residual stream of a live model (METHOD: interventions). None lets x^ silently replace x."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlgen.crosscoder.model import Crosscoder
from rlgen.evaluation.positions import TokenPositions
from rlgen.models import ResidualEdit, residuals
from rlgen.study.sections import TokenSet

Change = Callable[[Tensor, Tensor], Tensor]
"""From activations at the edited tokens [N, d] float32, and where they are [batch, position], to new ones [N, d]."""


class Site:
    """Where a live model is edited: a token set, without beginning-of-sequence tokens and outliers.

    A crosscoder is fitted without both, so codes there mean nothing and an edit there would break the model.
    """

    def __init__(
        self,
        positions: TokenPositions,
        tokens: TokenSet,
        crosscoder: Crosscoder,
        slot: int,
        bos: int | None,
    ) -> None:
        self.positions, self.tokens, self.bos = positions, tokens, bos
        self.crosscoder, self.slot = crosscoder, slot

    def edit(self, change: Change) -> ResidualEdit:
        """The edit that puts `change` in the place of the activations here, and nothing else."""

        @torch.no_grad()
        def edit(acts_BTD: Tensor) -> Tensor:
            here_BT = self.positions.mask(self.tokens)
            if self.bos is not None:
                here_BT = here_BT & (self.positions.inputs()["input_ids"][:, -here_BT.shape[1] :] != self.bos)
            if not here_BT.any():
                return acts_BTD
            acts_ND = acts_BTD[here_BT].float()
            kept_N = self.crosscoder.ordinary(acts_ND, self.slot)
            if not kept_N.all():
                here_BT = here_BT.clone()
                here_BT[here_BT.clone()] = kept_N
                acts_ND = acts_ND[kept_N]
            edited_BTD = acts_BTD.clone()
            edited_BTD[here_BT] = change(acts_ND, here_BT).to(acts_BTD.dtype)
            return edited_BTD

        return edit


class Contribution:
    """What some features add to a model's residual stream: sum_k f_k(x) W_dec,k, in raw units, by swap readout."""

    def __init__(self, crosscoder: Crosscoder, slot: int, features: list[int]) -> None:
        self._slot, self._rows_KD = slot, crosscoder.decoder_rows(slot).detach()[features]
        self._together = crosscoder.config.sparsity == "topk"  # a feature's code hangs on all the others'
        self._coder = crosscoder if self._together else crosscoder.part(features)
        self._features = features

    def __call__(self, acts_ND: Tensor) -> Tensor:
        """The contribution at each activation, [N, d]."""
        codes_NK = self._coder.swap_readout(acts_ND, self._slot)
        return (codes_NK[:, self._features] if self._together else codes_NK) @ self._rows_KD


def shift(shift_D: Tensor, alpha: float) -> Change:
    """Add alpha times a fixed vector."""
    return lambda acts_ND, _: acts_ND + alpha * shift_D


def ablate(contribution: Contribution, alpha: float) -> Change:
    """Subtract alpha times the features' contribution; the reconstruction error stays."""
    return lambda acts_ND, _: acts_ND - alpha * contribution(acts_ND)


def subtract_like(contribution: Contribution, other: Contribution | None, fallback_D: Tensor, alpha: float) -> Change:
    """Subtract something else of the norm that `contribution` has at each token.

    That is the `other` features' contribution, rescaled; where it is nothing, and without `other`, the direction
    `fallback_D`. So a control injects at every token exactly the norm of what it controls.
    """
    unit_D = fallback_D / fallback_D.norm().clamp(min=torch.finfo(torch.float32).tiny)

    def change(acts_ND: Tensor, _: Tensor) -> Tensor:
        norm_N1 = contribution(acts_ND).norm(dim=-1, keepdim=True)
        direction_ND = unit_D.expand_as(acts_ND)
        if other is not None:
            found_ND = other(acts_ND)
            length_N1 = found_ND.norm(dim=-1, keepdim=True)
            direction_ND = torch.where(length_N1 > 0, found_ND / length_N1, direction_ND)
        edited_ND: Tensor = acts_ND - alpha * norm_N1 * direction_ND
        return edited_ND

    return change


def encode_decode(crosscoder: Crosscoder, slot: int) -> Change:
    """x^ in the place of x: what the crosscoder alone does to the model, without any edit."""
    return lambda acts_ND, _: crosscoder.decode(crosscoder.swap_readout(acts_ND, slot))[:, slot]


def patch(donor: Donor) -> Change:
    """The other model's activation on the same tokens in the place of this one's: the ceiling of any edit here."""
    return lambda _, here_BT: donor.read()[here_BT].float()


class Donor:
    """Another model that reads the same tokens as the edited one, up to a layer, alongside it."""

    def __init__(self, model: PreTrainedModel, layer: int, positions: TokenPositions) -> None:
        self.model, self.layer, self.positions = model, layer, positions
        self._cache = DynamicCache(config=model.config)
        self._seen_BT = torch.empty(0, 0, dtype=torch.long)

    def read(self) -> Tensor:
        """Its residual stream at the tokens of the forward pass that is running now, [batch, position, d].

        Keeps its own cache over a generation; what it has not seen of the sequence so far, it reads first.
        """
        inputs = self.positions.inputs()
        ids_BT = inputs["input_ids"]
        now = self.positions.mask("all").shape[1]
        seen = self._catch_up(ids_BT, now)
        acts_BTD = residuals(
            self.model,
            [self.layer],
            input_ids=ids_BT[:, seen:],
            attention_mask=inputs["attention_mask"],
            position_ids=inputs["position_ids"][:, seen:],
            past_key_values=self._cache,
        )[:, :, 0]
        self._seen_BT = ids_BT.clone()
        return acts_BTD[:, -now:]

    def _catch_up(self, ids_BT: Tensor, now: int) -> int:
        """How many of the tokens are in the cache, after the rows that have ended are dropped from it."""
        seen = self._seen_BT.shape[1]
        if now < ids_BT.shape[1] and 0 < seen < ids_BT.shape[1]:
            rows = surviving(self._seen_BT.tolist(), ids_BT[:, :seen].tolist())
            if rows is not None:
                if len(rows) < len(self._seen_BT):
                    self._cache.batch_select_indices(torch.tensor(rows, device=ids_BT.device))
                return seen
        self._cache = DynamicCache(config=self.model.config)
        return 0


def surviving(before: list[list[int]], after: list[list[int]]) -> list[int] | None:
    """Which rows of `before` those of `after` are, in their order; None if they are others."""
    rows = []
    candidates = iter(enumerate(before))
    for row in after:
        place = next((index for index, candidate in candidates if candidate == row), None)
        if place is None:
            return None
        rows.append(place)
    return rows
