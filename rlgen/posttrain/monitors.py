"""Services that are told an arm's curves while it is trained: TensorBoard, Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlgen.errors import StudyError


@dataclass(frozen=True)
class Monitors:
    """Which services, by Hugging Face's names, and where they keep their files: never in the artifact."""

    services: Sequence[str] = ()
    folder: Path = Path("monitors")

    def arguments(self, name: str) -> dict[str, Any]:
        """Training arguments of an arm of that name. Raises StudyError if a service is not installed."""
        for service in self.services:
            if find_spec(service) is None:
                raise StudyError(f"monitors: {service} is not installed; `pip install {service}`, or leave it out")
        if self.services:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(self.folder))
            os.environ.setdefault("WANDB_DIR", str(self.folder))
            os.environ.setdefault("WANDB_PROJECT", "rlgen")
        return {"report_to": list(self.services), "run_name": name}


NO_MONITORS = Monitors()
