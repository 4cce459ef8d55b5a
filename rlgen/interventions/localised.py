"""What is edited: one crosscoder's localised features, and what is known of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.crosscoder.model import Crosscoder
from rlgen.errors import StudyError
from rlgen.features.attribution import read_features
from rlgen.models import device
from rlgen.study import BASE


@dataclass(frozen=True)
class Localised:
    """The localised features of one layer."""

    name: str
    """The crosscoder's."""
    arm: str
    features: list[int]
    decoded: dict[str, Tensor]
    """f^m W_dec^m of the mean codes of `base` and `arm` on the selection items, mean over tasks, [K, d], raw."""
    selection_items: dict[str, list[str]]
    measurement_items: dict[str, list[str]]
    crosscoder: Crosscoder
    rate_F: NDArray[np.float64]
    """Firing rates."""

    @property
    def layer(self) -> int:
        """The decoder block after which the crosscoder reads."""
        return self.crosscoder.config.layer

    @property
    def slots(self) -> dict[str, int]:
        """The crosscoder's slots of `base` and `arm`."""
        names = self.crosscoder.config.models
        return {"base": names.index(BASE), "arm": names.index(self.arm)}

    @property
    def steps_KD(self) -> Tensor:
        """What amplifying adds for each feature: the decoded difference between arm and base."""
        return self.decoded["arm"] - self.decoded["base"]

    def only(self, features: list[int]) -> Localised:
        """The same with other features, of those whose decoded codes are known."""
        known = {feature: index for index, feature in enumerate(self.features)}
        rows = [known[feature] for feature in features]
        decoded = {name: rows_KD[rows] for name, rows_KD in self.decoded.items()}
        return replace(self, features=features, decoded=decoded)

    @classmethod
    def read(
        cls, localisation: Path, crosscoder: Path, diagnostics: Path, features: list[int] | None = None
    ) -> Localised:
        """From the artifacts; `features` in the place of the localised ones."""
        found = json.loads((localisation / "localisation.json").read_text())
        with_items = [task for task, row in found["per_task"].items() if row["n_items"]]
        scores = pd.read_parquet(localisation / "scores.parquet")
        codes = scores[scores["task"].isin(with_items)].groupby("feature")[["mean_code_base", "mean_code_arm"]].mean()
        chosen = list(found["features"]) if features is None else features
        coder = Crosscoder.from_pretrained(crosscoder).to(device()).eval()
        decoded = {
            name: torch.tensor(codes[f"mean_code_{name}"].reindex(chosen).to_numpy(np.float32), device=device())[
                :, None
            ]
            * coder.decoder_rows(model).detach()[chosen]
            for name, model in (("base", BASE), ("arm", found["arm"]))
        }
        return cls(
            name=crosscoder.name,
            arm=found["arm"],
            features=chosen,
            decoded=decoded,
            selection_items=found["selection_items"],
            measurement_items=found["measurement_items"],
            crosscoder=coder,
            rate_F=read_features(diagnostics)["firing_rate"].to_numpy(np.float64),
        )


def read_all(localisations: list[Path], crosscoders: list[Path], diagnostics: list[Path]) -> list[Localised]:
    """The localised features of every crosscoder that is edited at once. Raises StudyError if two share a layer."""
    found = [Localised.read(*paths) for paths in zip(localisations, crosscoders, diagnostics, strict=True)]
    by_layer: dict[int, str] = {}
    for localised in found:
        other = by_layer.get(localised.layer)
        if other is not None:
            raise StudyError(
                f"interventions.with_layers: `{other}` and `{localised.name}` both read layer {localised.layer}; "
                "name one crosscoder a layer"
            )
        by_layer[localised.layer] = localised.name
    return found


def described(localised: list[Localised]) -> list[dict[str, Any]]:
    """What is edited, as effects.json says it."""
    return [{"crosscoder": found.name, "layer": found.layer, "features": found.features} for found in localised]
