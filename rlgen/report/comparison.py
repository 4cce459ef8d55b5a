"""A crosscoder's variants side by side: what sparsity, size or seed change of what it explains and finds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlgen.paths import Layout
from rlgen.stage import read_manifest
from rlgen.study.sections import Crosscoder

KEPT = ("l0", "fve", "delta_fve", "dead_fraction", "alive", "specific_features", "confirmed_features", "stability")
"""What is compared, as the diagnostics and the attribution name it; stability is of fits with several seeds."""


def compare(paths: Layout, fits: Sequence[str], numbers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each fit of a crosscoder: `name`, in what it `differs` from the first, and of its numbers `KEPT`."""
    settings = [_settings(paths, fit) for fit in fits]
    differs = [{key: value for key, value in own.items() if value != settings[0][key]} for own in settings]
    kept = [{key: found[key] for key in KEPT if key in found} for found in numbers]
    return [
        {"name": name, "differs": changed, **found} for name, changed, found in zip(fits, differs, kept, strict=True)
    ]


def compare_localised(paths: Layout, fits: Mapping[str, Mapping[str, Any]], edit: str | None) -> list[dict[str, Any]]:
    """One row for each fit whose features were localised, from its numbers: what the recipe changes of NRN's tail, of
    dead features and seed stability, and what the localised features then do (`edit`, transfer tasks; None: no edit was
    made with all of them)."""
    settings = {name: _settings(paths, name) for name in fits}
    first = next(iter(settings.values()), {})
    rows = []
    for name, found in fits.items():
        localised = json.loads((paths.localisation(name) / "localisation.json").read_text())["features"]
        nrn, moved = found.get("nrn") or {}, _effects(paths, name, edit) if edit else None
        row = {key: found[key] for key in KEPT if key in found}
        row |= {"nrn_outside": nrn.get("share_outside"), "nrn_highest": nrn.get("quantiles", {}).get("0.99")}
        row |= {"edit": edit, "localised": len(localised), "moved": moved and _moved(moved)}
        differs = {key: value for key, value in settings[name].items() if value != first[key] and key != "models"}
        rows.append({"name": name, "differs": differs, **row})
    return rows


def _effects(paths: Layout, fit: str, edit: str) -> Mapping[str, Any] | None:
    """Return an edit's effects on transfer tasks, if an item measures them."""
    effects: Mapping[str, Any] = json.loads((paths.intervention(fit, edit) / "effects.json").read_text())
    found: Mapping[str, Any] | None = effects["groups"]["transfer"]
    return found


def _moved(block: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("effect", "low", "high", "n", "ceiling", "of_ceiling")
    matched = {key: block["matched_random"][key] for key in ("q05", "q95", "p", "draws")}
    return {**{key: block[key] for key in kept}, "matched_random": matched}


def _settings(paths: Layout, fit: str) -> dict[str, Any]:
    """A fit's own settings, its layer as it was read."""
    settings = read_manifest(paths.crosscoder(fit))["settings"]
    return {**Crosscoder.model_validate(settings["crosscoder"]).model_dump(), "layer": settings["layer"]}
