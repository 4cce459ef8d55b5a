"""What a feature is worth on an item, in three ways (METHOD: localisation)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlgen.crosscoder.model import Crosscoder
from rlgen.features.scores import Bools, Floats, Indices, ItemValues
from rlgen.stage import derive_seed
from rlgen.study import BASE

SCORES = ("code_difference", "attribution", "delta_patching")


class Rows(NamedTuple):
    """The decoders of `base` and `arm` in raw units, [F, d] each."""

    base: Floats
    arm: Floats

    @classmethod
    def of(cls, crosscoder: Crosscoder, arm: str) -> Rows:
        """A crosscoder's."""
        return cls(*(crosscoder.decoder_rows(model).detach().double().cpu().numpy() for model in (BASE, arm)))


def read_values(
    rows: Rows, seen: dict[str, dict[str, Floats]], labels: dict[str, Bools], alive_F: Bools
) -> dict[str, ItemValues]:
    """The two scores that need no further run of a model; `seen` has by task the codes and gradients of every item.

    A code may be doubled and its decoder halved: code differences are ranked with the decoder's norm.
    """
    difference = {task: found["arm"] - found["base"] for task, found in seen.items()}
    attribution = {
        task: found["arm"] * (found["gradient"] @ rows.arm.T) - found["base"] * (found["gradient"] @ rows.base.T)
        for task, found in seen.items()
    }
    return {
        "code_difference": ItemValues(difference, labels, np.linalg.norm(rows.arm, axis=-1), alive_F),
        "attribution": ItemValues(attribution, labels, np.ones(len(alive_F)), alive_F),
    }


def candidates(by_score: dict[str, ItemValues], count: int) -> Indices:
    """At most `count` features worth measuring, ascending: the largest of each score in turn.

    Large in either direction and over all items, whoever is right: chosen by the labels, they would look better under
    them than under permuted ones.
    """
    size_SF = np.stack([_size(values) for values in by_score.values()])
    order_SF = np.argsort(-size_SF, axis=1, kind="stable")
    in_turn = order_SF.T.ravel()
    _, first = np.unique(in_turn, return_index=True)
    ranked = in_turn[np.sort(first)]
    return np.sort(ranked[(size_SF[:, ranked] > 0).any(axis=0)][:count])


def _size(values: ItemValues) -> Floats:
    """Mean magnitude over tasks and items, weighted, [F]; 0 for features that take no part."""
    mean_TF = np.stack([np.abs(value_IF).mean(axis=0) for value_IF in values.values.values()])
    size_F: Floats = mean_TF.mean(axis=0) * values.weight_F * values.alive_F
    return size_F


def patched_items(items: list[str], label_I: Bools, count: int, seed: int, task: str) -> Indices:
    """Which items are patched, ascending: at most `count` of those that count, and as many of the others."""
    order = np.argsort([derive_seed(seed, "localise", "patched", task, item) for item in items]).astype(np.int64)
    counting, others = order[label_I[order]][:count], order[~label_I[order]]
    return np.sort(np.concatenate([counting, others[: len(counting)]]))


def patched_values(
    effects: dict[str, Floats], chosen: dict[str, Indices], features: Indices, of: ItemValues
) -> ItemValues:
    """The measured score, from its effects by task, [chosen items, features]; `of` is a score of all items.

    Features that were not measured take no part.
    """
    measured_F = np.isin(np.arange(len(of.alive_F)), features)
    values = {}
    for task, effect_IK in effects.items():
        values[task] = np.zeros((len(effect_IK), len(measured_F)))
        values[task][:, features] = effect_IK
    labels = {task: of.labels[task][index] for task, index in chosen.items()}
    return ItemValues(values, labels, np.ones(len(measured_F)), of.alive_F & measured_F)
