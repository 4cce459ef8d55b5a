"""A model's answers to every task, item by item."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlgen.data.tasks import TASK_JSON
from rlgen.evaluation.scoring import accuracy
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study.stages import EvaluateSettings

if TYPE_CHECKING:
    from rlgen.evaluation.harness import Runner

log = logging.getLogger("rlgen")

ITEMS_PARQUET = "items.parquet"
"""One row a sample: model, task, item, sample, right, answer (as read), gold, response, prompt, and of a multiple
choice log_likelihoods and right_norm (see `harness.COLUMNS`)."""
ACCURACY_JSON = "accuracy.json"
"""By task {value, n, low, high}, a 95% interval over n items; of a multiple choice also `chance`, and `acc_norm`, such
a block again, where the harness reports it."""

_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("model", "task", "item"), pa.string()),
        **{"sample": pa.int64(), "right": pa.bool_()},
        **dict.fromkeys(("answer", "gold", "response", "prompt"), pa.string()),
        **{"log_likelihoods": pa.list_(pa.float64()), "right_norm": pa.bool_()},
    }
)


def evaluate(settings: EvaluateSettings, model: Path, tasks: Sequence[Path], out: Path) -> None:
    """Answer every task, one after the other, each a unit that is not repeated when the stage resumes.

    Every model answers with the same random numbers, so that differences between models are paired. Raises
    StudyError if the model cannot be loaded or is too short for the answers.
    """
    about = {folder: json.loads((folder / TASK_JSON).read_text()) for folder in tasks}
    names = {folder: str(found["name"]) for folder, found in about.items()}
    inputs = {"model": model, **{f"task {name}": folder for folder, name in names.items()}}
    with stage("evaluate", settings, inputs, out) as work:
        missing = [folder for folder, name in names.items() if not _unit(work, name).exists()]
        if missing:
            _answer(settings, model, {folder: about[folder] for folder in missing}, work)
        frames = [pd.read_parquet(_unit(work, name)) for name in names.values()]
        _write(pd.concat(frames, ignore_index=True), work.folder / ITEMS_PARQUET)
        found = {name: _accuracy(frame) for name, frame in zip(names.values(), frames, strict=True)}
        write_json(work.folder / ACCURACY_JSON, found)
        for name, value in found.items():
            log.info("%s: %.3f (%.3f to %.3f, n %d)", name, *(value[k] for k in ("value", "low", "high", "n")))


def _answer(settings: EvaluateSettings, model: Path, missing: dict[Path, dict[str, Any]], work: Workspace) -> None:
    """Run the tasks whose answers are not there yet."""
    runner = _runner(settings, model, list(missing))
    progress = work.progress(len(missing), "tasks")
    for about in missing.values():
        name = about["name"]
        seed = derive_seed(settings.seed, "evaluate", name)
        frame = runner.run([name], samples=about.get("samples", settings.evaluation.samples), seed=seed)
        with atomic_path(_unit(work, name)) as temporary:
            _write(frame.assign(model=model.name), temporary)
        progress.add(note=name)


def _runner(settings: EvaluateSettings, model: Path, tasks: Sequence[Path]) -> Runner:
    from rlgen.evaluation.engine import VllmEngine, longest_sequence
    from rlgen.evaluation.harness import Harness, Runner
    from rlgen.models import load_model, load_tokenizer

    if settings.evaluation.engine == "vllm":
        return Runner(VllmEngine(model, longest_sequence(tasks, load_tokenizer(model))), tasks)
    return Harness(load_model(model), load_tokenizer(model), tasks, settings.evaluation)


def _accuracy(frame: pd.DataFrame) -> dict[str, Any]:
    """A task's block of accuracy.json."""
    found: dict[str, Any] = accuracy(frame["right"], frame["item"])
    if frame["log_likelihoods"].notna().all():
        found["chance"] = float((1 / frame["log_likelihoods"].map(len)).mean())
    if frame["right_norm"].notna().all():
        found["acc_norm"] = accuracy(frame["right_norm"].astype(bool), frame["item"])
    return found


def _write(frame: pd.DataFrame, path: Path) -> None:
    """The same columns and types whatever the tasks are."""
    table = pa.Table.from_pandas(frame, _SCHEMA, preserve_index=False)
    pq.write_table(table, path)


def _unit(work: Workspace, task: str) -> Path:
    return work.scratch / f"{task}.parquet"
