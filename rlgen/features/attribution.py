"""Whose a feature is: NRN and MAS from decoder norms (METHOD: attribution)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlgen.crosscoder.model import Crosscoder
from rlgen.crosscoder.scaling import EPS, R
from rlgen.features.matching import seed_stability
from rlgen.stage import atomic_path, stage, write_json
from rlgen.study import BASE
from rlgen.study.stages import AttributeSettings

Floats = NDArray[np.float64]

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""Of NRN over alive features, as reported."""


def attribute(
    settings: AttributeSettings,
    *,
    crosscoder: Path,
    diagnostics: Path,
    out: Path,
    replicates: Sequence[tuple[Path, Path]] = (),
) -> None:
    """Write NRN and MAS of every feature: features.parquet, attribution.json. Dead features get nan.

    `replicates` are fits that differ in the seed alone, each with its diagnostics: against them, features get their
    `seed_stability`.
    """
    inputs = {"crosscoder": crosscoder, "diagnostics": diagnostics}
    for fit, diagnosed in replicates:
        inputs |= {f"replicate {fit.name}": fit, f"diagnostics of {fit.name}": diagnosed}
    with stage("attribute", settings, inputs, out) as work:
        model = Crosscoder.from_pretrained(crosscoder)
        features, slots = read_features(diagnostics), model.config.slots
        rates = features["firing_rate"].to_numpy(np.float64)
        rule = settings.attribution
        table = feature_table(slots, decoder_norms(model, 1), rates, rule.specific, rule.nrn_range)
        table = with_scaling(with_l2(table, slots, decoder_norms(model, 2)), features, slots)
        numbers = summary(table, slots, rule.nrn_range)
        if replicates:
            found_F, null_F = seed_stability(model.W_dec, [_live_rows(*paths) for paths in replicates])
            table["seed_stability"] = np.where(rates > 0, found_F, np.nan)
            numbers["stability"] = stability(table, null_F[rates > 0], len(replicates))
        with atomic_path(work.folder / "features.parquet") as path:
            table.to_parquet(path, index=False)
        write_json(work.folder / "attribution.json", numbers)


def read_features(diagnostics: Path) -> pd.DataFrame:
    """A crosscoder's diagnostics by feature, in the order of the features."""
    return pd.read_parquet(diagnostics / "features.parquet").sort_values("feature", ignore_index=True)


def _live_rows(crosscoder: Path, diagnostics: Path) -> Tensor:
    """Decoder rows of the features that fire, [features, models, d]."""
    alive_F = read_features(diagnostics)["firing_rate"].to_numpy(np.float64) > 0
    return Crosscoder.from_pretrained(crosscoder).W_dec.detach()[torch.from_numpy(alive_F)]


def decoder_norms(crosscoder: Crosscoder, order: int) -> Floats:
    """L1 or L2 norm (`order`) of every feature's decoder row in every slot, [F, M], in normalised units.

    Normalised: each model's activations have mean norm sqrt(d), so that models of other scales compare.
    """
    rows_FMD = crosscoder.W_dec.detach().double()
    norms_FM: Floats = torch.linalg.vector_norm(rows_FMD, ord=order, dim=-1).cpu().numpy()
    return norms_FM


def nrn(other: Floats, post_trained: Floats) -> Floats:
    """NRN from norms of any shape: 1 post-trained only, 0 the other only, 0.5 shared; nan where both are 0.

    Source: the paper's normalised relative norm, there of L1 norms (METHOD: attribution).
    """
    return _share(post_trained, other + post_trained)


def mas(norms_FM: Floats) -> Floats:
    """MAS, [F, M]: a slot's share of a feature's decoder norm; rows sum to 1, nan where all norms are 0."""
    return _share(norms_FM, norms_FM.sum(axis=1, keepdims=True))


def pair(slots: list[str]) -> tuple[int, int] | None:
    """Slots (other, post-trained) of a pairwise crosscoder, None of a joint one; base is the other if it is there."""
    if len(slots) != 2:
        return None
    return (1, 0) if slots[1] == BASE else (0, 1)


def feature_table(
    slots: list[str], l1_FM: Floats, firing_rate_F: Floats, specific: float, nrn_range: tuple[float, float]
) -> pd.DataFrame:
    """One row a feature: firing_rate, l1_<slot>, mas_<slot>, nrn (pairwise), owner, specific.

    A feature is specific to the model whose MAS exceeds `specific`; in a pair, where 0.5 is but an equal share,
    its NRN must lie outside `nrn_range` too. A feature that never fires has nan and no owner.
    """
    alive_F = firing_rate_F > 0
    mas_FM = np.where(alive_F[:, None], mas(l1_FM), np.nan)
    table = pd.DataFrame({"feature": np.arange(len(l1_FM)), "firing_rate": firing_rate_F})
    for i, slot in enumerate(slots):
        table[f"l1_{slot}"] = l1_FM[:, i]
    for i, slot in enumerate(slots):
        table[f"mas_{slot}"] = mas_FM[:, i]
    known_F = ~np.isnan(mas_FM).any(axis=1)
    best_F = np.where(known_F, np.nan_to_num(mas_FM).argmax(axis=1), -1)
    is_specific_F = known_F & (np.nan_to_num(mas_FM).max(axis=1) > specific)
    if (found := pair(slots)) is not None:
        other, post_trained = found
        nrn_F = np.where(alive_F, nrn(l1_FM[:, other], l1_FM[:, post_trained]), np.nan)
        table["nrn"] = nrn_F
        is_specific_F &= outside(nrn_F, nrn_range)
    table["owner"] = [slots[i] if i >= 0 else None for i in best_F]
    table["specific"] = is_specific_F
    return table


def with_l2(table: pd.DataFrame, slots: list[str], l2_FM: Floats) -> pd.DataFrame:
    """A `feature_table` with the same by L2 norms beside it: l2_<slot>, mas_l2_<slot>, nrn_l2 (pairwise).

    An L1 norm grows with the number of dimensions that a row is spread over, an L2 norm does not; where the two
    disagree, a feature has changed its spread and not its strength. Owners stay those by L1, as in the paper.
    """
    alive_F = table["firing_rate"].to_numpy() > 0
    columns = {f"l2_{slot}": l2_FM[:, i] for i, slot in enumerate(slots)}
    mas_FM = np.where(alive_F[:, None], mas(l2_FM), np.nan)
    columns |= {f"mas_l2_{slot}": mas_FM[:, i] for i, slot in enumerate(slots)}
    if (found := pair(slots)) is not None:
        other, post_trained = found
        columns["nrn_l2"] = np.where(alive_F, nrn(l2_FM[:, other], l2_FM[:, post_trained]), np.nan)
    return table.assign(**columns)


def with_scaling(table: pd.DataFrame, diagnosed: pd.DataFrame, slots: list[str]) -> pd.DataFrame:
    """The table with latent scaling (nu_eps_<slot>, nu_r_<slot>; nan for a feature's owner) and `confirmed`.

    A specific feature is confirmed if no other model has it: neither shrunk away (nu_eps) nor by others (nu_r).
    """
    bounds = {f"nu_eps_{slot}": EPS for slot in slots} | {f"nu_r_{slot}": R for slot in slots}
    table = table.join(diagnosed[list(bounds)])
    small = [table[name].isna() | (table[name].abs() <= bound) for name, bound in bounds.items()]
    return table.assign(confirmed=table["specific"] & np.logical_and.reduce(small))


def outside(nrn_F: Floats, nrn_range: tuple[float, float]) -> NDArray[np.bool_]:
    """Which features' NRN is extreme; nan is not."""
    return (nrn_F < nrn_range[0]) | (nrn_F > nrn_range[1])


def summary(table: pd.DataFrame, slots: list[str], nrn_range: tuple[float, float]) -> dict[str, Any]:
    """Counts of a feature table: alive, specific features by slot and, of a pair, the spread of NRN by either norm."""
    owners = table.loc[table["specific"], "owner"].value_counts()
    confirmed = table.loc[table["confirmed"], "owner"].value_counts()
    alive = int((table["firing_rate"] > 0).sum())
    found: dict[str, Any] = {
        "slots": slots,
        "features": len(table),
        "alive": alive,
        "specific_features": {slot: int(owners.get(slot, 0)) for slot in slots},
        "confirmed_features": {slot: int(confirmed.get(slot, 0)) for slot in slots},
    }
    for column in ("nrn", "nrn_l2"):
        if column in table:
            found[column] = _spread(table[column].dropna().to_numpy(), nrn_range)
    return found


def quantiles(values: Floats) -> dict[str, float]:
    """The reported quantiles, by their share; none of no values."""
    return {f"{q:g}": float(np.quantile(values, q)) for q in QUANTILES} if len(values) else {}


def _spread(nrn_F: Floats, nrn_range: tuple[float, float]) -> dict[str, Any]:
    extreme = int(outside(nrn_F, nrn_range).sum())
    return {
        "range": list(nrn_range),
        "outside": extreme,
        "share_outside": extreme / len(nrn_F) if len(nrn_F) else None,
        "above": int((nrn_F > nrn_range[1]).sum()),
        "below": int((nrn_F < nrn_range[0]).sum()),
        "quantiles": quantiles(nrn_F),
    }


def stability(table: pd.DataFrame, null: Floats, replicates: int) -> dict[str, Any]:
    """How many live features other seeds find again: those beyond the 95th percentile of the null, `null`.

    Medians are of the highest cosines; `specific` counts the same of the specific features.
    """
    alive = table[table["seed_stability"].notna()]
    if not len(alive):
        return {"replicates": replicates, "alive": 0}
    bound = float(np.quantile(null, 0.95))
    found: dict[str, Any] = {"replicates": replicates, "alive": len(alive), "null_q95": bound}
    for name, rows in (("all", alive), ("specific", alive[alive["specific"]])):
        cosines = rows["seed_stability"].to_numpy(np.float64)
        median = float(np.median(cosines)) if len(cosines) else None
        found[name] = {"features": len(cosines), "median": median, "found_again": int((cosines > bound).sum())}
    return found


def _share(part: Floats, total: Floats) -> Floats:
    share: Floats = np.divide(
        part, total, out=np.full(np.broadcast_shapes(part.shape, total.shape), np.nan), where=total > 0
    )
    return share
