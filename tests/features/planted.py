"""Crosscoders and activations whose features are known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig


def planted(models: list[str], rows_MFD: Tensor, layer: int = 1) -> Crosscoder:
    """A crosscoder with these decoders that reads every model's activations with the pseudo-inverse of its decoder.

    On activations f @ rows_MFD[m], with f >= 0 and fewer features than dimensions, swap readout gives f for every
    model whose decoder is the first one's.
    """
    _, features, d = rows_MFD.shape
    found = Crosscoder(CrosscoderConfig(models, d, features, "relu_l1", k=1, layer=layer))
    with torch.no_grad():
        found.W_dec.copy_(rows_MFD.permute(1, 0, 2))
        found.W_enc.zero_()
        found.W_enc[:, 0] = torch.linalg.pinv(rows_MFD[0]).T
    return found.eval()


def write_rates(folder: Path, rates: list[float], slots: Sequence[str] = ("base", "rl")) -> Path:
    """Diagnostics by feature with these firing rates."""
    folder.mkdir(parents=True)
    table = pd.DataFrame({"feature": np.arange(len(rates)), "firing_rate": rates, "mean_code": 1.0, "max_code": 2.0})
    table[[f"{name}_{slot}" for name in ("nu_eps", "nu_r") for slot in slots]] = np.nan
    table.to_parquet(folder / "features.parquet")
    return folder


def sparse_codes(tokens: int, features: int, rate: float = 0.3, seed: int = 0) -> Tensor:
    """Random codes, [tokens, features]: not zero at this rate."""
    random = torch.Generator().manual_seed(seed)
    active = torch.rand(tokens, features, generator=random) < rate
    return torch.rand(tokens, features, generator=random) * active
