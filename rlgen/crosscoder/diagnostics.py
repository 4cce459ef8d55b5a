"""What a fitted crosscoder explains, by METHOD section 4; the numbers that say whether to believe the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.activations.joined import join
from rlgen.activations.loader import Loader
from rlgen.activations.store import group_parts
from rlgen.crosscoder.explained import Explained
from rlgen.crosscoder.model import Crosscoder
from rlgen.crosscoder.scaling import LatentScaling
from rlgen.crosscoder.sparse import Pattern
from rlgen.crosscoder.splice import recovered_cross_entropy
from rlgen.models import device
from rlgen.stage import Workspace, derive_seed, stage, write_json
from rlgen.study.stages import FitSettings

DIAGNOSTICS, FEATURES = "diagnostics.json", "features.parquet"
TOKENS = 1 << 18
"""Tokens over which codes are measured, drawn at random, or all if there are fewer."""
_RATE_EDGES = 10.0 ** np.arange(-6, 0.01, 0.5)
"""Firing rates from one token in a million to every token."""


@dataclass
class Firing:
    """How often and how strongly each feature fires."""

    tokens: int
    count_F: Tensor
    sum_F: Tensor
    max_F: Tensor

    @classmethod
    def none(cls, crosscoder: Crosscoder) -> Firing:
        """Nothing counted yet."""
        zeros_F = torch.zeros_like(crosscoder.b_enc)
        return cls(0, zeros_F.long(), zeros_F.double(), zeros_F.clone())

    def add(self, pattern: Pattern, values_N: Tensor) -> None:
        """Count a batch's codes."""
        features = len(self.count_F)
        self.tokens += pattern.batch
        self.count_F += torch.bincount(pattern.columns_N, minlength=features)
        self.sum_F += torch.bincount(pattern.columns_N, weights=values_N.double(), minlength=features)
        self.max_F.scatter_reduce_(0, pattern.columns_N, values_N, "amax")

    @property
    def rate_F(self) -> NDArray[np.float64]:
        """Share of tokens on which each feature fires."""
        return (self.count_F.double() / self.tokens).cpu().numpy()

    def table(self) -> pa.Table:
        """One row a feature; a feature that never fires has a mean code of 0."""
        mean_F = self.sum_F / self.count_F.clamp(min=1)
        return pa.table(
            {
                "feature": np.arange(len(self.count_F)),
                "firing_rate": self.rate_F,
                "mean_code": mean_F.cpu().numpy(),
                "max_code": self.max_F.double().cpu().numpy(),
            }
        )


def diagnose(
    settings: FitSettings, *, crosscoder: Path, models: list[Path], stores: list[Path], corpus: Path, out: Path
) -> None:
    """Write diagnostics.json and features.parquet: what the crosscoder explains of the stores and in the models.

    `corpus` gives the rows on which x^ is spliced into the models.
    """
    inputs = {f"{path.parent.name}/{path.name}": path for path in stores}
    inputs |= {f"model {path.name}": path for path in models}
    with stage("diagnose", settings, {**inputs, "crosscoder": crosscoder, "corpus": corpus}, out) as work:
        joined = join(group_parts(stores, settings.crosscoder.models))
        loader = Loader(
            joined,
            settings.layer,
            settings.crosscoder.batch_size,
            derive_seed(settings.seed, "diagnose"),
            outlier_norm=settings.outlier_norm,
            device=device(),
        )
        coder = Crosscoder.from_pretrained(crosscoder).to(device()).requires_grad_(False)
        explained, firing, scaling = measure(coder, loader, work)
        numbers = summarise(explained, firing) | {
            "outliers": loader.dropped,
            "cross_entropy": recovered_cross_entropy(coder, models, corpus),
        }
        write_json(work.folder / DIAGNOSTICS, numbers)
        table = firing.table()
        for name, values in scaling.columns(coder.config.slots).items():
            table = table.append_column(name, pa.array(values))
        pq.write_table(table, work.folder / FEATURES)


def measure(crosscoder: Crosscoder, loader: Loader, work: Workspace) -> tuple[Explained, Firing, LatentScaling]:
    """Sums over the loader's batches, up to TOKENS tokens."""
    explained, firing, scaling = Explained(crosscoder), Firing.none(crosscoder), LatentScaling(crosscoder)
    progress = work.progress(min(TOKENS, loader.total_tokens), "tokens")
    for acts_BMD in loader:
        normalised_BMD = crosscoder.normalise(acts_BMD)
        codes_BF = crosscoder.encode_normalised(normalised_BMD)
        pattern = Pattern.of(codes_BF)
        values_N = codes_BF[pattern.rows_N, pattern.columns_N]
        decoded_BMD = pattern.times(values_N, crosscoder.W_dec.flatten(1)).view_as(normalised_BMD) + crosscoder.b_dec
        explained.add(normalised_BMD, decoded_BMD - normalised_BMD)
        firing.add(pattern, values_N)
        scaling.add(pattern, values_N, normalised_BMD, decoded_BMD)
        progress.to(min(firing.tokens, TOKENS))
        if firing.tokens >= TOKENS:
            break
    return explained, firing, scaling


def summarise(explained: Explained, firing: Firing) -> dict[str, Any]:
    """The numbers of diagnostics.json but for the cross-entropy; the histogram leaves dead features out."""
    rate_F = firing.rate_F
    counts, _ = np.histogram(rate_F[rate_F > 0].clip(_RATE_EDGES[0], 1.0), _RATE_EDGES)
    return {
        "fve": explained.fve(),
        "delta_fve": explained.delta_fve(),
        "l0": float(rate_F.sum()),
        "dead_fraction": float((rate_F == 0).mean()),
        "tokens": firing.tokens,
        "firing_rate_histogram": {"edges": _RATE_EDGES.tolist(), "counts": counts.tolist()},
    }
