"""How NRN moves over checkpoints, feature by feature (METHOD: tracking)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlgen.features.attribution import quantiles

Floats = NDArray[np.float64]


def drift(nrn_HCF: Floats, checkpoints: list[str]) -> dict[str, Any]:
    """NRN by checkpoint and how far two checkpoints rank features alike; `nrn_HCF` are on all tokens and on each half.

    Across halves, one of the two is taken on the first half of the documents and the other on the second, both ways:
    what the choice of tokens alone does.
    """
    on_all_CF, first_CF, second_CF = nrn_HCF
    across_CC = rank_correlations(first_CF, second_CF)
    to_final_C = _mean_distance(on_all_CF, on_all_CF[-1])
    noise_C = _mean_distance(first_CF, second_CF)
    return {
        "quantiles": {name: quantiles(nrn_F) for name, nrn_F in zip(checkpoints, on_all_CF, strict=True)},
        "distance_to_final": dict(zip(checkpoints, to_final_C, strict=True)),
        "distance_across_halves": dict(zip(checkpoints, noise_C, strict=True)),
        "rank_correlation": _listed(rank_correlations(on_all_CF, on_all_CF)),
        "rank_correlation_across_halves": _listed((across_CC + across_CC.T) / 2),
    }


def rank_correlations(values_AF: Floats, values_BF: Floats) -> Floats:
    """Spearman's correlation of every row of the one with every row of the other, [A, B]; nan if a row is constant."""
    ranks_AF, ranks_BF = (_centred_ranks(values) for values in (values_AF, values_BF))
    spread_AB = np.sqrt(np.outer((ranks_AF**2).sum(axis=1), (ranks_BF**2).sum(axis=1)))
    nothing_AB = np.full(spread_AB.shape, np.nan)
    found: Floats = np.divide(ranks_AF @ ranks_BF.T, spread_AB, out=nothing_AB, where=spread_AB > 0)
    return found


def _centred_ranks(values_CF: Floats) -> Floats:
    """Ranks of the features, equals sharing their mean rank, less the mean rank."""
    ranks_CF: Floats = pd.DataFrame(values_CF).rank(axis=1).to_numpy(np.float64)
    centred_CF: Floats = ranks_CF - (values_CF.shape[1] + 1) / 2
    return centred_CF


def _mean_distance(nrn_CF: Floats, other: Floats) -> list[float | None]:
    """Mean |difference| of NRN by checkpoint; None without features."""
    return [float(value) for value in np.abs(nrn_CF - other).mean(axis=1)] if nrn_CF.size else [None] * len(nrn_CF)


def _listed(matrix: Floats) -> list[list[float | None]]:
    """Rows as JSON has them: None where there is no value."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
