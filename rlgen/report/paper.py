"""The paper's numbers, to be set beside a study's own: arXiv 2604.25011, accuracies and interventions.

Accuracies are shares (the paper prints per cent). The paper's intervention scores are changes on its *selected
subset*, where base scores 0 and RL 1 by construction: they belong beside a study's subset numbers, nowhere else.
"""

from __future__ import annotations

import re

_TASKS = ("MATH500", "AIME24", "AIME25", "OBQA", "CSQA", "SciQ", "ARC-C")
_PER_CENT = {
    "Qwen3-4B": {
        "base": (26.0, 13.3, 0.0, 23.6, 20.1, 78.5, 36.0),
        "sft": (68.4, 13.3, 13.3, 25.8, 19.6, 51.8, 34.4),
        "grpo": (77.0, 26.7, 20.0, 27.2, 50.5, 89.5, 39.3),
    },
    "Qwen2.5-7B": {
        "base": (40.0, 10.0, 3.3, 28.4, 77.6, 86.9, 41.9),
        "sft": (69.2, 13.3, 10.0, 26.4, 30.1, 79.4, 37.0),
        "grpo": (71.4, 20.0, 13.3, 32.8, 76.1, 90.7, 42.5),
    },
}

ACCURACY: dict[str, dict[str, dict[str, float]]] = {
    model: {method: {t: v / 100 for t, v in zip(_TASKS, row, strict=True)} for method, row in rows.items()}
    for model, rows in _PER_CENT.items()
}
"""ACCURACY[model][method][task], method one of base, sft, grpo."""

_EDITED = ("OBQA", "CSQA", "HeadQA", "SciQ", "ARC-C", "LogiQA", "PIQA")
INTERVENTIONS: dict[str, dict[str, float]] = {
    "ablate": dict(zip(_EDITED, (-0.462, -0.439, -0.212, -0.140, -0.333, -0.245, -0.176), strict=True)),
    "amplify": dict(zip(_EDITED, (0.363, 0.360, 0.212, 0.380, 0.333, 0.233, 0.282), strict=True)),
}
"""INTERVENTIONS[edit][task]: change of accuracy on the selected subset of Qwen3-4B (ablate in RL, amplify in base)."""

_ALIASES = {"openbookqa": "OBQA", "commonsenseqa": "CSQA", "arcchallenge": "ARC-C"}
_KNOWN = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in (*_TASKS, *_EDITED)} | _ALIASES


def paper_task(name: str) -> str | None:
    """The paper's name of a study's task, None if the paper has none of that name: `arc_challenge` is `ARC-C`."""
    return _KNOWN.get(re.sub(r"[^a-z0-9]", "", name.lower()))
