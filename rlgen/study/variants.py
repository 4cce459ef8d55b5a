"""A crosscoder entry that lists seeds or a grid, spelt out: one named fit for each combination."""

from __future__ import annotations

import itertools
from typing import Any

from rlgen.study.sections import Crosscoder, CrosscoderEntry


def expand(name: str, entry: CrosscoderEntry, layer: int) -> dict[str, Crosscoder]:
    """Every fit that an entry asks for, the entry's own settings first, under the entry's own name.

    Another fit's name says in what it differs: `base-rl.k=8`, `base-rl.k=8.seed=1`. `layer` is the one read if none
    is given.
    """
    own = Crosscoder.model_validate(entry.model_dump(exclude={"seeds", "grid"}, exclude_unset=True))
    usual: dict[str, Any] = {**own.model_dump(), "layer": own.layer or layer}
    grid = {key: [usual[key], *values] for key, values in entry.grid if values}
    choices = {**grid, "seed": [own.seed, *entry.seeds]}
    found = {}
    for values in itertools.product(*choices.values()):
        changes = {key: value for key, value in zip(choices, values, strict=True) if value != usual[key]}
        label = ".".join([name, *(f"{key}={value}" for key, value in changes.items())])
        found[label] = own.model_copy(update=changes)
    return found


def replicates(fits: dict[str, Crosscoder]) -> dict[str, list[str]]:
    """For every fit, those that differ from it in nothing but the seed."""
    settings = {name: fit.model_dump_json(exclude={"seed"}) for name, fit in fits.items()}
    alike: dict[str, list[str]] = {}
    for name, found in settings.items():
        alike.setdefault(found, []).append(name)
    return {name: [other for other in alike[found] if other != name] for name, found in settings.items()}
