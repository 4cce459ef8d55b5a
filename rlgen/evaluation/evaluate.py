"""A model's answers to every task, item by item."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rlgen.data.tasks import TASK_JSON
from rlgen.evaluation.scoring import accuracy
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study.stages import EvaluateSettings

log = logging.getLogger("rlgen")

ITEMS_PARQUET = "items.parquet"
"""One row a sample: task, item, sample, right, answer (as read), gold, response, prompt."""
ACCURACY_JSON = "accuracy.json"
"""By task {value, n, low, high}: 95% interval over n items."""


def evaluate(settings: EvaluateSettings, model: Path, tasks: Sequence[Path], out: Path) -> None:
    """Answer every task, one after the other, each a unit that is not repeated when the stage resumes.

    Every model answers with the same random numbers, so that differences between models are paired. Raises
    StudyError if the model cannot be loaded or is too short for the answers.
    """
    names = {folder: str(json.loads((folder / TASK_JSON).read_text())["name"]) for folder in tasks}
    inputs = {"model": model, **{f"task {name}": folder for folder, name in names.items()}}
    with stage("evaluate", settings, inputs, out) as work:
        missing = [folder for folder, name in names.items() if not _unit(work, name).exists()]
        if missing:
            _answer(settings, model, {folder: names[folder] for folder in missing}, work)
        frames = [pd.read_parquet(_unit(work, name)) for name in names.values()]
        pd.concat(frames, ignore_index=True).to_parquet(work.folder / ITEMS_PARQUET, index=False)
        found = {name: accuracy(f["right"], f["item"]) for name, f in zip(names.values(), frames, strict=True)}
        write_json(work.folder / ACCURACY_JSON, found)
        for name, value in found.items():
            log.info("%s: %.3f (%.3f to %.3f, n %d)", name, *(value[k] for k in ("value", "low", "high", "n")))


def _answer(settings: EvaluateSettings, model: Path, missing: dict[Path, str], work: Workspace) -> None:
    """Run the tasks whose answers are not there yet."""
    from rlgen.evaluation.harness import Harness
    from rlgen.models import load_model, load_tokenizer

    harness = Harness(load_model(model), load_tokenizer(model), list(missing), settings.evaluation)
    progress = work.progress(len(missing), "tasks")
    for name in missing.values():
        seed = derive_seed(settings.seed, "evaluate", name)
        frame = harness.run([name], samples=settings.evaluation.samples, seed=seed)
        with atomic_path(_unit(work, name)) as temporary:
            frame.to_parquet(temporary, index=False)
        progress.add(note=name)


def _unit(work: Workspace, task: str) -> Path:
    return work.scratch / f"{task}.parquet"
