"""Latent scaling: whether a feature that one model seems to own is in another model after all (2504.02922).

For a feature with code f and its owner's decoder row d, beta(y) is the factor at which beta f d explains y best. Of
another model m, relative to the owner o:

    nu_eps = beta(error of x_m without the feature) / beta(error of x_o without the feature)
    nu_r   = beta(x^_m) / beta(x^_o)

nu_eps near 1: the feature is in x_m too, and its decoder there was shrunk away. nu_r near 1: other features carry it
there. A feature is called its owner's own where both are small in every other model (`EPS`, `R`: the paper's bounds).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlgen.crosscoder.model import Crosscoder
from rlgen.crosscoder.sparse import Pattern

EPS, R = 0.2, 0.5
"""Largest nu_eps and nu_r of a feature that is in no other model than its owner."""


class LatentScaling:
    """Sums over tokens, in the crosscoder's own scale; every feature's owner is the model of its largest L1 norm."""

    def __init__(self, crosscoder: Crosscoder) -> None:
        rows_FMD = crosscoder.W_dec.detach()
        self.owner_F = rows_FMD.abs().sum(dim=-1).argmax(dim=-1)
        """Slot of each feature's owner."""
        self._rows_FD = rows_FMD[torch.arange(len(rows_FMD)), self.owner_F]
        self._own_FM = torch.einsum("fmd,fd->fm", rows_FMD, self._rows_FD).double()
        features, models, _ = rows_FMD.shape
        self._error_FM, self._decoded_FM = torch.zeros(2, features, models, dtype=torch.float64, device=rows_FMD.device)
        self._square_F = torch.zeros(features, dtype=torch.float64, device=rows_FMD.device)

    def add(self, pattern: Pattern, values_N: Tensor, normalised_BMD: Tensor, decoded_BMD: Tensor) -> None:
        """A batch: its codes, its activations and their reconstruction, in the crosscoder's own scale."""
        for slot in range(normalised_BMD.shape[1]):
            decoded_BD = decoded_BMD[:, slot].contiguous()
            self._error_FM[:, slot] += self._explained(pattern, values_N, normalised_BMD[:, slot] - decoded_BD)
            self._decoded_FM[:, slot] += self._explained(pattern, values_N, decoded_BD)
        self._square_F += self._by_feature(pattern, values_N.double().square())

    def columns(self, slots: list[str]) -> dict[str, list[float]]:
        """nu_eps_<slot> and nu_r_<slot> of every feature; nan for its owner and where it never fires."""
        # the error without the feature: what it explained is in it again
        left_FM = self._error_FM + self._square_F[:, None] * self._own_FM
        found: dict[str, list[float]] = {}
        for name, sums_FM in (("nu_eps", left_FM), ("nu_r", self._decoded_FM)):
            owners_F = sums_FM.gather(1, self.owner_F[:, None])
            known_FM = (self._square_F[:, None] > 0) & (owners_F != 0)
            nu_FM = torch.where(known_FM, sums_FM / owners_F, torch.nan)
            nu_FM = nu_FM.scatter(1, self.owner_F[:, None], torch.nan)
            found |= {f"{name}_{slot}": nu_FM[:, i].tolist() for i, slot in enumerate(slots)}
        return found

    def _explained(self, pattern: Pattern, values_N: Tensor, target_BD: Tensor) -> Tensor:
        """sum over tokens of f (d . y), [F]; beta is that over sum f^2 |d|^2, which is the same for every y."""
        dots_N = pattern.dots(target_BD.contiguous(), self._rows_FD)
        return self._by_feature(pattern, values_N.double() * dots_N)

    def _by_feature(self, pattern: Pattern, values_N: Tensor) -> Tensor:
        return torch.bincount(pattern.columns_N, weights=values_N, minlength=pattern.features)
