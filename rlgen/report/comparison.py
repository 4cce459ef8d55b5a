"""A crosscoder's variants side by side: what sparsity, size or seed change of what it explains and finds."""

from __future__ import annotations

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


def _settings(paths: Layout, fit: str) -> dict[str, Any]:
    """A fit's own settings, its layer as it was read."""
    settings = read_manifest(paths.crosscoder(fit))["settings"]
    return {**Crosscoder.model_validate(settings["crosscoder"]).model_dump(), "layer": settings["layer"]}
