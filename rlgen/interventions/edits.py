"""Edits of the residual stream of a live model (METHOD: interventions). None lets x^ silently replace x."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from rlgen.caches import is_recurrent, keep_rows, new_cache
from rlgen.crosscoder.model import Crosscoder
from rlgen.evaluation.lm import prompt_key
from rlgen.evaluation.positions import TokenPositions
from rlgen.models import ResidualEdit, residuals
from rlgen.study.sections import TokenSet
from rlgen.token_sets import not_beginning

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
            fed_BT = self.positions.inputs()["input_ids"][:, -here_BT.shape[1] :]
            here_BT = here_BT & not_beginning(fed_BT, self.bos)
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


Delta = Callable[[Tensor, Tensor], Tensor]
"""What an edit of strength 1 adds, [N, d], to activations [N, d] that are at [batch, position]."""


def added(delta: Delta, alpha: float) -> Change:
    """Add `alpha` times a delta; the reconstruction error stays. At 0 activations are as they were, bit by bit."""
    if alpha == 0:
        return lambda acts_ND, _: acts_ND
    return lambda acts_ND, here_BT: acts_ND + alpha * delta(acts_ND, here_BT)


def constant(shift_D: Tensor) -> Delta:
    """The same shift everywhere."""
    return lambda acts_ND, _: shift_D.expand_as(acts_ND)


def scaled(contribution: Contribution) -> Delta:
    """The features' own contribution again: strength 1 doubles it."""
    return lambda acts_ND, _: contribution(acts_ND)


def removed(contribution: Contribution, remains_D: Tensor | None = None) -> Delta:
    """The features' contribution taken away, with something fixed in its place (mean ablation) or nothing."""

    def delta(acts_ND: Tensor, _: Tensor) -> Tensor:
        gone_ND = contribution(acts_ND)
        return -gone_ND if remains_D is None else remains_D - gone_ND

    return delta


def transplanted(contribution: Contribution, theirs: Contribution, donor: Donor) -> Delta:
    """The donor's contribution of the features, on the same tokens, in the place of the model's own."""
    return lambda acts_ND, here_BT: theirs(donor.read()[here_BT].float()) - contribution(acts_ND)


def as_long_as(delta: Delta, other: Delta | None, fallback_D: Tensor) -> Delta:
    """Another delta of the norm that `delta` has at each token.

    Where `other` is nothing, and without it, the direction `fallback_D`. So a control injects at every token exactly
    the norm of what it controls.
    """
    unit_D = fallback_D / fallback_D.norm().clamp(min=torch.finfo(torch.float32).tiny)

    def longer(acts_ND: Tensor, here_BT: Tensor) -> Tensor:
        norm_N1 = delta(acts_ND, here_BT).norm(dim=-1, keepdim=True)
        direction_ND = unit_D.expand_as(acts_ND)
        if other is not None:
            found_ND = other(acts_ND, here_BT)
            length_N1 = found_ND.norm(dim=-1, keepdim=True)
            direction_ND = torch.where(length_N1 > 0, found_ND / length_N1, direction_ND)
        longer_ND: Tensor = norm_N1 * direction_ND
        return longer_ND

    return longer


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
        self._cache: Cache = new_cache(model)
        self._recurrent = is_recurrent(model)
        self._seen_BT = torch.empty(0, 0, dtype=torch.long)
        self._prompts: dict[bytes, Tensor] = {}
        """What was read at the ends of prompts: the same under every condition."""
        self._running: dict[str, Tensor] | None = None
        self._acts_BTD: Tensor
        """What was read for the pass that is running: an edit and what it is held against ask for it each."""

    def clear(self) -> None:
        """Forget what was read at the ends of prompts."""
        self._prompts.clear()

    def read(self) -> Tensor:
        """Its residual stream at the tokens of the forward pass that is running now, [batch, position, d].

        What follows on prompts whose beginnings are shared by many runs is remembered for the next one. Else it keeps
        its own cache over a generation; what it has not seen of the sequence so far, it reads first.
        """
        inputs = self.positions.inputs()
        if inputs is not self._running:
            self._acts_BTD, self._running = self._read(inputs), inputs
        return self._acts_BTD

    def _read(self, inputs: dict[str, Tensor]) -> Tensor:
        ids_BT = inputs["input_ids"]
        now = self.positions.mask("all").shape[1]
        if "attention_mask" not in inputs:  # whole texts
            return residuals(self.model, [self.layer], **inputs)[:, :, 0]
        if now < ids_BT.shape[1] and self.positions.mask("last_prompt").any():
            key = prompt_key([*ids_BT.flatten().tolist(), *inputs["attention_mask"].flatten().tolist()])
            if key not in self._prompts:
                self._prompts[key] = residuals(self.model, [self.layer], **inputs)[:, -now:, 0]
            return self._prompts[key]
        if self._recurrent:  # blocks after the layer are not run, and a cache would keep nothing of them
            return residuals(self.model, [self.layer], **inputs)[:, -now:, 0]
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
                    keep_rows(self._cache, torch.tensor(rows, device=ids_BT.device))
                return seen
        self._cache = new_cache(self.model)
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
