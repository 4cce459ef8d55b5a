"""A model's answers to every task, item by item."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlgen.data.tasks import TASK_JSON, read_items
from rlgen.evaluation.scoring import accuracy
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study.stages import EvaluateSettings

if TYPE_CHECKING:
    from rlgen.evaluation.harness import Runner

log = logging.getLogger("rlgen")

ITEMS_PARQUET = "items.parquet"
"""One row a sample: model, task, item, sample, right, answer (as the verifier read it; null if there is none), gold,
response, prompt, and of a multiple choice log_likelihoods and right_norm (see `harness.COLUMNS`)."""
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


UNIT_TOKENS = 2_000_000
"""Tokens at most that a unit generates, if every answer is as long as it may be: what a killed job repeats, half an
hour's work at 1,000 tokens a second."""


def evaluate(settings: EvaluateSettings, model: Path, tasks: Sequence[Path], out: Path) -> None:
    """Answer every task, one after the other. A unit is a task, or a part of one with long answers (`_units`).

    Every model answers with the same random numbers, so that differences between models are paired. Raises
    StudyError if the model cannot be loaded or is too short for the answers.
    """
    about = {folder: json.loads((folder / TASK_JSON).read_text()) for folder in tasks}
    own = {file: Path(file) for file in settings.verifier_files}
    inputs = {"model": model, **own, **{f"task {found['name']}": folder for folder, found in about.items()}}
    with stage("evaluate", settings, inputs, out) as work:
        units = [unit for folder, found in about.items() for unit in _units(folder, found, settings, work)]
        missing = [unit for unit in units if not unit.file.exists()]
        if missing:
            _answer(settings, model, missing, work)
        frames = {found["name"]: _read([u for u in units if u.folder == folder]) for folder, found in about.items()}
        _write(pd.concat(frames.values(), ignore_index=True), work.folder / ITEMS_PARQUET)
        found = {name: _accuracy(frame) for name, frame in frames.items()}
        write_json(work.folder / ACCURACY_JSON, found)
        for name, value in found.items():
            log.info("%s: %.3f (%.3f to %.3f, n %d)", name, *(value[k] for k in ("value", "low", "high", "n")))


class _Unit(NamedTuple):
    """Items of one task that are answered together."""

    folder: Path
    task: str
    samples: int
    items: dict[str, int]
    """Places in the task's file by item."""
    file: Path
    """Where the answers are."""


def _units(folder: Path, about: Mapping[str, Any], settings: EvaluateSettings, work: Workspace) -> list[_Unit]:
    """A task's units: so many items that they generate `UNIT_TOKENS` at most; all of them of a multiple choice.

    Items with the same prompt are in one unit, that of the first: an answer's random numbers follow from how often its
    prompt has been asked in a run, so that they would be the same in two. The answers are those of one unit.
    """
    task, samples = about["name"], about.get("samples", settings.evaluation.samples)
    size = max(1, UNIT_TOKENS // (samples * about["max_new_tokens"])) if about["format"] == "generate" else None
    groups: dict[str, dict[str, int]] = {}
    for place, row in enumerate(read_items(folder)):
        groups.setdefault(row["prompt"], {})[row["id"]] = place
    parts: list[dict[str, int]] = [{}]
    for group in groups.values():
        if size and parts[-1] and len(parts[-1]) + len(group) > size:
            parts.append({})
        parts[-1] |= group
    names = [f"{task}-{number}-of-{len(parts)}.parquet" for number in range(1, len(parts) + 1)]
    return [_Unit(folder, task, samples, part, work.scratch / name) for part, name in zip(parts, names, strict=True)]


def _answer(settings: EvaluateSettings, model: Path, missing: Sequence[_Unit], work: Workspace) -> None:
    """Run the units whose answers are not there yet."""
    runner = _runner(settings, model, list(dict.fromkeys(unit.folder for unit in missing)))
    progress = work.progress(sum(len(unit.items) for unit in missing), "items")
    for unit in missing:
        seed = derive_seed(settings.seed, "evaluate", unit.task)
        items = sorted(unit.items, key=unit.items.__getitem__)
        frame = runner.run([unit.task], {unit.task: items}, samples=unit.samples, seed=seed)
        with atomic_path(unit.file) as temporary:
            _write(frame.assign(model=model.name), temporary)
        progress.add(len(items), note=unit.task)


def _read(units: Sequence[_Unit]) -> pd.DataFrame:
    """A task's answers, in the order of its items."""
    places = {item: place for unit in units for item, place in unit.items.items()}
    frame = pd.concat([pd.read_parquet(unit.file) for unit in units], ignore_index=True)
    return frame.sort_values("item", key=lambda items: items.map(places), kind="stable", ignore_index=True)


def _runner(settings: EvaluateSettings, model: Path, tasks: Sequence[Path]) -> Runner:
    from rlgen.evaluation.engine import VllmEngine, longest_sequence
    from rlgen.evaluation.harness import Harness, Runner
    from rlgen.models import load_model, load_tokenizer

    if settings.evaluation.engine == "vllm":
        engine = VllmEngine(model, longest_sequence(tasks, load_tokenizer(model)))
        return Runner(engine, tasks, settings.verifiers)
    return Harness(load_model(model), load_tokenizer(model), tasks, settings.evaluation, settings.verifiers)


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
