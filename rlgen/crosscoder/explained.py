"""How much of the activations, and of what post-training changed in them, a crosscoder explains."""

from __future__ import annotations

import torch
from torch import Tensor

from rlgen.crosscoder.mesh import Axis
from rlgen.crosscoder.model import Crosscoder

_NO_DIFFERENCE = 1e-12
"""Relative to the reference's variance: models that differ by less are the same model."""


class Explained:
    """Fraction of variance explained, of x_m and (in raw units) of x_m - x_reference; batches are summed in float64."""

    def __init__(self, crosscoder: Crosscoder) -> None:
        self._scale_M = crosscoder.scale
        self._reference = crosscoder.config.reference
        self._slots = crosscoder.config.slots
        self._count = 0
        self._sum_QD = torch.zeros(())
        self._squares_Q = torch.zeros(())
        self._errors_Q = torch.zeros(())

    @torch.no_grad()
    def add(self, normalised_BMD: Tensor, error_BMD: Tensor) -> None:
        """Activations in the crosscoder's own scale, and what the reconstruction misses of them."""
        quantities_BQD = self._with_differences(normalised_BMD)
        self._count += len(normalised_BMD)
        self._sum_QD = self._sum_QD + quantities_BQD.sum(dim=0).double()
        self._squares_Q = self._squares_Q + _squares(quantities_BQD)
        self._errors_Q = self._errors_Q + _squares(self._with_differences(error_BMD))

    def sum_over(self, axis: Axis) -> None:
        """Add what the other processes of the axis have summed over their tokens."""
        count = torch.tensor(self._count, device=self._sum_QD.device)
        self._count = int(axis.sum(count))
        self._sum_QD, self._squares_Q, self._errors_Q = map(axis.sum, (self._sum_QD, self._squares_Q, self._errors_Q))

    def fve(self) -> dict[str, float]:
        """1 - sum |x - x^|^2 / sum |x - mean|^2, by slot."""
        models = len(self._slots)
        return dict(zip(self._slots, self._fractions()[:models].tolist(), strict=True))

    def delta_fve(self) -> dict[str, float]:
        """The same of x_arm - x_reference, by slot; an arm that does not differ from the reference is left out."""
        models = len(self._slots)
        fractions, variance_Q = self._fractions()[models:].tolist(), self._variances()
        least = _NO_DIFFERENCE * float(variance_Q[self._reference] / self._scale_M[self._reference] ** 2)
        differs = (variance_Q[models:] > least).tolist()
        return {slot: fractions[i] for i, slot in enumerate(self._slots) if differs[i] and i != self._reference}

    def _variances(self) -> Tensor:
        return self._squares_Q - self._sum_QD.square().sum(dim=-1) / self._count

    def _fractions(self) -> Tensor:
        return 1 - self._errors_Q / self._variances()

    def _with_differences(self, normalised_BMD: Tensor) -> Tensor:
        raw_BMD = normalised_BMD / self._scale_M[:, None]
        return torch.cat([normalised_BMD, raw_BMD - raw_BMD[:, self._reference, None]], dim=1)


def _squares(quantities_BQD: Tensor) -> Tensor:
    return quantities_BQD.square().sum(dim=2).sum(dim=0, dtype=torch.float64)
