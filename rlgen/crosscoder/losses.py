"""What fitting minimises (METHOD section 4), in the crosscoder's own scale, as a mean over the batch's tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlgen.crosscoder.encoder import Encoder
from rlgen.crosscoder.mesh import ALONE, Mesh
from rlgen.crosscoder.model import Crosscoder
from rlgen.crosscoder.sparse import decode_from
from rlgen.crosscoder.sparsity import Active, BatchTopK, sparsity_of
from rlgen.study.sections import Crosscoder as CrosscoderSettings

_NO_DIFFERENCE = 1e-12


@dataclass
class Terms:
    """One batch's loss and what went into it, of all processes together but where it says otherwise."""

    loss: Tensor
    """Of this process' tokens and features: what it goes back through."""
    value: float
    """The loss as a number."""
    error_BMD: Tensor
    """x^ - x of this process' tokens."""
    fired_F: Tensor
    """Which of this process' features were active on any token."""
    tokens: int
    """Of the batch."""
    l0: float
    """Active features a token."""
    dense: bool
    """Whether so many features were active that products were dense ones."""
    limit: Tensor | None = None
    """batch_topk: the smallest score that was selected."""
    penalty: float = 0.0
    """relu_l1, jumprelu: what sparsity costs, its weight included."""
    auxiliary: float = 0.0
    """The loss that revives dead features, its weight included."""


class Objective:
    """The loss of a crosscoder under its settings.

    `variance_M` and `delta_variance_M` are of the raw activations x_m and of x_m - x_reference: the delta loss
    adds |error of (x_m - x_reference)|^2, in units of the reference's scale, times their ratio.
    """

    def __init__(
        self,
        settings: CrosscoderSettings,
        crosscoder: Crosscoder,
        variance_M: Tensor,
        delta_variance_M: Tensor,
        mesh: Mesh = ALONE,
    ) -> None:
        self.settings, self.crosscoder, self.mesh = settings, crosscoder, mesh
        self.encoder = Encoder(crosscoder)
        self._sparsity = sparsity_of(settings, mesh)
        self._revival = BatchTopK(settings, mesh)
        reference = self._reference = crosscoder.config.reference
        ratio_M = variance_M[reference] / delta_variance_M
        same_M = delta_variance_M <= _NO_DIFFERENCE * variance_M[reference]
        self._delta_weight_M = (settings.delta_weight * ratio_M.masked_fill(same_M, 0.0)).to(crosscoder.scale)
        self._relative_scale_M = crosscoder.scale[reference] / crosscoder.scale

    def __call__(self, normalised_BMD: Tensor, warm: float, dead_F: Tensor) -> Terms:
        """The loss on activations in the crosscoder's own scale.

        `warm` in [0, 1] weighs the sparsity penalty; `dead_F` says which features the auxiliary loss should revive.
        """
        coder, mesh = self.crosscoder, self.mesh
        tokens = int(mesh.data.sum(torch.tensor(len(normalised_BMD), device=coder.scale.device)))
        self.encoder.read(normalised_BMD.flatten(1))
        weight_F = coder.selection_weights()
        active = self._sparsity(self.encoder, weight_F, tokens, warm)
        error_BMD = self._decode(active).view_as(normalised_BMD) + coder.b_dec - normalised_BMD
        nothing = torch.zeros_like(weight_F[0])
        reconstruction, penalty, auxiliary = self._reconstruction(error_BMD), active.penalty, None
        if self.settings.aux_weight and self.settings.sparsity != "relu_l1":
            auxiliary = self._auxiliary(error_BMD.detach(), dead_F, weight_F.detach(), tokens)
        parts = [nothing if part is None else part / tokens for part in (reconstruction, penalty, auxiliary)]
        means = torch.stack(parts).detach().double()
        means[1] = mesh.features.sum(means[1])
        reconstruction_mean, penalty_mean, auxiliary_mean = mesh.data.sum(means).tolist()
        fired_N = active.codes_N.detach() > 0
        fired_F = torch.bincount(active.pattern.columns_N[fired_N], minlength=len(dead_F))
        return Terms(
            loss=parts[0] + parts[1] + parts[2],
            value=reconstruction_mean + penalty_mean + auxiliary_mean,
            error_BMD=error_BMD.detach(),
            fired_F=mesh.data.sum(fired_F) > 0,
            tokens=tokens,
            l0=int(mesh.sum(fired_N.sum())) / tokens,
            dense=active.pattern.dense,
            limit=active.limit,
            penalty=penalty_mean,
            auxiliary=auxiliary_mean,
        )

    def state_dict(self) -> dict[str, dict[str, float]]:
        """What is remembered from batch to batch."""
        return {"active": dict(self._sparsity.guesses), "revival": dict(self._revival.guesses)}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        """Go on from where `state` was taken; the crosscoder's weights are as they were then."""
        self._sparsity.guesses, self._revival.guesses = dict(state["active"]), dict(state["revival"])
        self.encoder.refresh()

    def _decode(self, active: Active) -> Tensor:
        """x^ without its bias, [B, M * d]; gradients reach both weights."""
        found_BI = decode_from(active.codes_N, self.crosscoder.W_dec, active.pattern)
        return self.mesh.features.partial_sum(found_BI)

    def _reconstruction(self, error_BMD: Tensor) -> Tensor:
        loss = error_BMD.square().sum()
        if bool(self._delta_weight_M.any()):
            scaled_BMD = error_BMD * self._relative_scale_M[:, None]
            delta_BMD = scaled_BMD - scaled_BMD[:, self._reference, None]
            loss = loss + delta_BMD.square().sum(dim=(0, 2)) @ self._delta_weight_M
        return loss

    def _auxiliary(self, error_BMD: Tensor, dead_F: Tensor, weight_F: Tensor, tokens: int) -> Tensor | None:
        """The dead features' attempt at what the others missed (2406.04093, A.2); None if none is dead.

        2 k of them a token rather than d / 2 as there: cheaper, and in one miniature fit (d 128, k 16) as many
        stayed dead either way.
        """
        dead = int(self.mesh.features.sum(dead_F.sum()))
        if not dead:
            return None
        wanted = 2 * self.settings.k
        tried = self._revival.highest("dead", self.encoder, weight_F * dead_F, wanted * tokens)
        left = (self._decode(tried).view_as(error_BMD) + error_BMD).square().sum()
        return self.settings.aux_weight * min(1.0, dead / wanted) * left
