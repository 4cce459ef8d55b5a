"""Features matched between fits that differ in the seed alone: what is found again is not the seed's doing.

Two features are as like as their decoders, all models' rows end to end: `seed_stability` is the mean over the other
fits of the highest cosine with any of their live features. In a space of few strong directions, high cosines come by
chance; so the same is measured against random features of the same covariance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from rlgen.stage import derive_seed

Floats = NDArray[np.float64]

_BLOCK = 4096
"""Features compared at a time: the table of cosines is [block, F]."""


def seed_stability(rows_FMD: Tensor, others: Sequence[Tensor]) -> tuple[Floats, Floats]:
    """Mean over the others of every feature's highest cosine, and the same against random features, [F].

    `rows_FMD` and `others`, [features, models, d] each, are decoders of fits of the same models; features that never
    fire are to be left out of the others. Random features are as many normal draws with their second moments.
    """
    found_SF = [_best_cosine(rows_FMD, other) for other in others]
    null_SF = [_best_cosine(rows_FMD, _drawn_like(other, seed)) for seed, other in enumerate(others)]
    return torch.stack(found_SF).mean(dim=0).numpy(), torch.stack(null_SF).mean(dim=0).numpy()


def _best_cosine(rows_FMD: Tensor, other_FMD: Tensor) -> Tensor:
    if not len(other_FMD):
        return torch.zeros(len(rows_FMD), dtype=torch.float64)
    here_FN, other_FN = (normalize(rows.detach().float().flatten(1), dim=1) for rows in (rows_FMD, other_FMD))
    blocks = [(block_BN @ other_FN.T).amax(dim=1) for block_BN in torch.split(here_FN, _BLOCK)]
    return torch.cat(blocks).double().cpu()


def _drawn_like(rows_FMD: Tensor, seed: int) -> Tensor:
    """As many random rows: each a sum of all the given ones with normal weights."""
    rows_FN = rows_FMD.detach().float().flatten(1)
    random = torch.Generator().manual_seed(derive_seed("match", seed))
    drawn = [torch.randn(len(block_BN), len(rows_FN), generator=random) for block_BN in torch.split(rows_FN, _BLOCK)]
    return torch.cat([weight_BF.to(rows_FN) @ rows_FN for weight_BF in drawn]).view_as(rows_FMD)
