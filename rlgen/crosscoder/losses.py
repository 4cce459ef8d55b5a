"""What fitting minimises (METHOD section 4), in the crosscoder's own scale, as a mean over the batch's tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlgen.crosscoder.model import Crosscoder
from rlgen.crosscoder.sparse import Pattern, decode_from, encode_at
from rlgen.crosscoder.sparsity import batch_topk
from rlgen.study.sections import Crosscoder as CrosscoderSettings

_NO_DIFFERENCE = 1e-12


@dataclass
class Terms:
    """One batch's loss and what went into it."""

    loss: Tensor
    error_BMD: Tensor
    """x^ - x."""
    fired_F: Tensor
    """Which features were active on any token."""
    l0: float
    """Active features a token."""
    limit: Tensor | None = None
    """BatchTopK: the smallest score that was selected."""
    sparsity: Tensor | None = None
    """relu_l1: the penalty, its weight included."""
    auxiliary: Tensor | None = None
    """BatchTopK: the loss that revives dead features, its weight included; None if none is dead."""

    @property
    def value(self) -> float:
        """The loss as a number."""
        return float(self.loss.detach())


class Objective:
    """The loss of a crosscoder under its settings.

    `variance_M` and `delta_variance_M` are of the raw activations x_m and of x_m - x_reference: the delta loss
    adds |error of (x_m - x_reference)|^2, in units of the reference's scale, times their ratio.
    """

    def __init__(
        self, settings: CrosscoderSettings, crosscoder: Crosscoder, variance_M: Tensor, delta_variance_M: Tensor
    ) -> None:
        self.settings, self.crosscoder = settings, crosscoder
        reference = self._reference = crosscoder.config.reference
        ratio_M = variance_M[reference] / delta_variance_M
        same_M = delta_variance_M <= _NO_DIFFERENCE * variance_M[reference]
        self._delta_weight_M = (settings.delta_weight * ratio_M.masked_fill(same_M, 0.0)).to(crosscoder.scale)
        self._relative_scale_M = crosscoder.scale[reference] / crosscoder.scale

    def __call__(self, normalised_BMD: Tensor, warm: float, dead_F: Tensor) -> Terms:
        """The loss on activations in the crosscoder's own scale.

        `warm` in [0, 1] weighs the L1 penalty; `dead_F` says which features the auxiliary loss should revive.
        """
        if self.settings.sparsity == "relu_l1":
            return self._relu_l1(normalised_BMD, warm)
        return self._batch_topk(normalised_BMD, dead_F)

    def _relu_l1(self, normalised_BMD: Tensor, warm: float) -> Terms:
        coder, size = self.crosscoder, len(normalised_BMD)
        codes_BF = torch.relu(torch.addmm(coder.b_enc, normalised_BMD.flatten(1), coder.W_enc.flatten(0, 1)))
        error_BMD = (codes_BF @ coder.W_dec.flatten(1)).view_as(normalised_BMD) + coder.b_dec - normalised_BMD
        penalty = warm * self.settings.l1 * (codes_BF.sum(dim=0) @ coder.selection_weights()) / size
        active_BF = codes_BF.detach() > 0
        return Terms(
            loss=self._reconstruction(error_BMD) + penalty,
            error_BMD=error_BMD.detach(),
            fired_F=active_BF.any(dim=0),
            l0=float(active_BF.sum()) / size,
            sparsity=penalty.detach(),
        )

    def _batch_topk(self, normalised_BMD: Tensor, dead_F: Tensor) -> Terms:
        coder, inputs_BI = self.crosscoder, normalised_BMD.flatten(1)
        with torch.no_grad():
            codes_BF = torch.relu(torch.addmm(coder.b_enc, inputs_BI, coder.W_enc.flatten(0, 1)))
            scores_BF = codes_BF * coder.selection_weights()
            pattern, limit = batch_topk(scores_BF, self.settings.k, guess=0.8 * float(coder.threshold))
        error_BMD = self._decode(pattern, codes_BF, inputs_BI).view_as(normalised_BMD) + coder.b_dec - normalised_BMD
        loss, auxiliary = self._reconstruction(error_BMD), None
        if self.settings.aux_weight and bool(dead_F.any()):
            auxiliary = self._auxiliary(codes_BF, scores_BF, inputs_BI, error_BMD.detach(), dead_F)
            loss = loss + auxiliary
        return Terms(
            loss=loss,
            error_BMD=error_BMD.detach(),
            fired_F=torch.bincount(pattern.columns_N, minlength=len(dead_F)) > 0,
            l0=len(pattern.columns_N) / len(inputs_BI),
            limit=limit,
            auxiliary=None if auxiliary is None else auxiliary.detach(),
        )

    def _decode(self, pattern: Pattern, codes_BF: Tensor, inputs_BI: Tensor) -> Tensor:
        """x^ without its bias from the codes at a pattern alone, [B, M * d]; gradients reach both weights."""
        coder = self.crosscoder
        values_N = codes_BF[pattern.rows_N, pattern.columns_N]
        values_N = encode_at(inputs_BI, coder.W_enc.flatten(0, 1), coder.b_enc, values_N, pattern)
        return decode_from(values_N, coder.W_dec.flatten(1), pattern)

    def _reconstruction(self, error_BMD: Tensor) -> Tensor:
        loss = error_BMD.square().sum() / len(error_BMD)
        if bool(self._delta_weight_M.any()):
            scaled_BMD = error_BMD * self._relative_scale_M[:, None]
            delta_BMD = scaled_BMD - scaled_BMD[:, self._reference, None]
            loss = loss + (delta_BMD.square().sum(dim=(0, 2)) @ self._delta_weight_M) / len(error_BMD)
        return loss

    def _auxiliary(
        self, codes_BF: Tensor, scores_BF: Tensor, inputs_BI: Tensor, error_BMD: Tensor, dead_F: Tensor
    ) -> Tensor:
        """The dead features' attempt at what the others missed (2406.04093, A.2).

        2 k of them a token rather than d / 2 as there: cheaper, and in one miniature fit (d 128, k 16) as many
        stayed dead either way.
        """
        wanted = 2 * self.settings.k
        pattern, _ = batch_topk(scores_BF * dead_F, wanted)
        missed_BI = -error_BMD.flatten(1)
        left = (self._decode(pattern, codes_BF, inputs_BI) - missed_BI).square().sum() / len(missed_BI)
        return self.settings.aux_weight * min(1.0, float(dead_F.sum()) / wanted) * left
