"""Birth, growth and death of features over checkpoints, from swap readout (METHOD: tracking)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlgen.features.swap import Readout
from rlgen.study import BASE

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

FACTOR = 2.0
"""A feature was born if it fires so many times as often in the end as in base, and died if base so much oftener."""


def changed(rates_HSF: Sequence[Floats], fired_HSF: Sequence[Floats], least: int) -> tuple[Bools, Bools]:
    """Which features were born and which died, [F] each, from each half's rates and tokens fired on, [steps, F].

    Both halves must agree, each with at least `least` tokens where the feature fires more: what one half alone shows is
    taken for noise.
    """
    born = [(r[-1] >= FACTOR * r[0]) & (n[-1] >= least) for r, n in zip(rates_HSF, fired_HSF, strict=True)]
    died = [(r[-1] < r[0] / FACTOR) & (n[0] >= least) for r, n in zip(rates_HSF, fired_HSF, strict=True)]
    return np.logical_and.reduce(born), np.logical_and.reduce(died)


def birth(rate_SF: Floats) -> Indices:
    """The first checkpoint at which the rate reaches half of its final value, [F]; 0 is the first after base."""
    first_F: Indices = np.argmax(rate_SF[1:] >= rate_SF[-1] / 2, axis=0)
    return first_F


def death(rate_SF: Floats) -> Indices:
    """The first checkpoint from which on the rate is below half of base's, [F]; of features that end below it."""
    below_CF = rate_SF[1:] < rate_SF[0] / FACTOR
    for_good_CF = np.logical_and.accumulate(below_CF[::-1], axis=0)[::-1]
    first_F: Indices = np.argmax(for_good_CF, axis=0)
    return first_F


def slope(mean_SF: Floats) -> Floats:
    """Least-squares slope of the mean code over the steps, base first, in codes a checkpoint, [F]."""
    step_S = np.arange(len(mean_SF)) - (len(mean_SF) - 1) / 2
    slope_F: Floats = step_S @ mean_SF / (step_S**2).sum()
    return slope_F


def feature_table(
    readout: Readout, checkpoints: list[str], nrn_CF: Floats, features: Indices, least: int
) -> pd.DataFrame:
    """One row a feature of the dictionary.

    By checkpoint: nrn_<checkpoint> (of the refit; nan where a feature fires too seldom to refit it), mean_code_<step>,
    firing_rate_<step> (base is the step before training) and final_share_<checkpoint>, the mean code as a share of
    the final one (nan where that is 0). Then slope, born and died, which name a checkpoint or nothing.
    """
    rate_SF, mean_SF = readout.rate(readout.groups), readout.mean(readout.groups)
    halves = readout.halves()
    was_born_F, has_died_F = changed([readout.rate(h) for h in halves], [readout.fired(h) for h in halves], least)
    all_CF = np.full((len(checkpoints), mean_SF.shape[1]), np.nan)
    all_CF[:, features] = nrn_CF
    share_CF = np.divide(mean_SF[1:], mean_SF[-1], out=np.full(all_CF.shape, np.nan), where=mean_SF[-1] > 0)
    columns: dict[str, Any] = {"feature": np.arange(mean_SF.shape[1])}
    columns |= {f"nrn_{name}": nrn_F for name, nrn_F in zip(checkpoints, all_CF, strict=True)}
    for kind, values_SF in (("mean_code", mean_SF), ("firing_rate", rate_SF)):
        columns |= {f"{kind}_{name}": v_F for name, v_F in zip([BASE, *checkpoints], values_SF, strict=True)}
    columns |= {f"final_share_{name}": share_F for name, share_F in zip(checkpoints, share_CF, strict=True)}
    columns["slope"] = slope(mean_SF)
    columns["born"] = _named(birth(rate_SF), was_born_F, checkpoints)
    columns["died"] = _named(death(rate_SF), has_died_F, checkpoints)
    return pd.DataFrame(columns)


def counts(table: pd.DataFrame, firing_F: Bools, checkpoints: list[str]) -> dict[str, Any]:
    """How many features were born and died by checkpoint, and how many of those that fire did neither."""
    changed_F = (table["born"].notna() | table["died"].notna()).to_numpy()
    by_checkpoint = {
        kind: {name: int((table[kind] == name).sum()) for name in checkpoints} for kind in ("born", "died")
    }
    return {**by_checkpoint, "stable": int((firing_F & ~changed_F).sum())}


def _named(index_F: Indices, counts_F: Bools, checkpoints: list[str]) -> list[str | None]:
    return [checkpoints[index] if there else None for index, there in zip(index_F, counts_F, strict=True)]
