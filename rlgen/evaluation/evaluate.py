"""A model's answers to every task, item by item."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlgen.data.tasks import TASK_JSON, read_items
from rlgen.evaluation.batching import EXACT, batch_dependence
from rlgen.evaluation.scoring import accuracy
from rlgen.stage import Workspace, atomic_path, derive_seed, stage, write_json
from rlgen.study.stages import EvaluateSettings

if TYPE_CHECKING:
    from rlgen.evaluation.harness import Runner

log = logging.getLogger("rlgen")

ITEMS_PARQUET = "items.parquet"
"""One row a sample: model, task, item, sample, right, answer (as the verifier read it; null if there is none), gold,
response, prompt, of a multiple choice log_likelihoods and right_norm, and of a free answer response_ids (see
`harness.COLUMNS`)."""
BATCH_JSON = "batch_dependence.json"
"""Only where the model runs in bfloat16, float16 or less: `batching.batch_dependence`. The manifest holds it, too."""
_PRECISION = "precision.json"
"""In the scratch folder: what precision the model runs in."""
ACCURACY_JSON = "accuracy.json"
"""By task {value, n, low, high}, a 95% interval over n items; of a multiple choice also `chance`, and `acc_norm`, such
a block again, where the harness reports it."""

_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("model", "task", "item"), pa.string()),
        **{"sample": pa.int64(), "right": pa.bool_()},
        **dict.fromkeys(("answer", "gold", "response", "prompt"), pa.string()),
        **{"log_likelihoods": pa.list_(pa.float64()), "right_norm": pa.bool_(), "response_ids": pa.list_(pa.int32())},
    }
)


UNIT_TOKENS = 2_000_000
"""Tokens at most that a unit generates, if every answer is as long as it may be: what a killed job repeats, half an
hour's work at 1,000 tokens a second."""


def evaluate(settings: EvaluateSettings, model: Path, tasks: Sequence[Path], out: Path) -> None:
    """Answer every task, one after the other. A unit is a task, or a part of one with long answers (`_units`).

    Every model answers with the same random numbers, so that differences between models are paired. The manifest says
    in what `precision` the model ran, and, if that is less than float32, how many answers of a sample differ in other
    batches (`batch_dependence`). Raises StudyError if the model cannot be loaded or is too short for the answers.
    """
    about = {folder: json.loads((folder / TASK_JSON).read_text()) for folder in tasks}
    own = {file: Path(file) for file in settings.verifier_files}
    inputs = {"model": model, **own, **{f"task {found['name']}": folder for folder, found in about.items()}}
    with stage("evaluate", settings, inputs, out) as work:
        units = [unit for folder, found in about.items() for unit in _units(folder, found, settings, work)]
        answering = _Answering(settings, model, list(about), work)
        answering.answer([unit for unit in units if not unit.file.exists()])
        frames = {found["name"]: _read([u for u in units if u.folder == folder]) for folder, found in about.items()}
        work.facts |= answering.precision(frames)
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
    prompt has been asked in a run, so that they would be the same in two. The answers are those of one unit, but for
    what other batches change (`rlgen.evaluation.batching`).
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


class _Answering:
    """A model that answers units, loaded when it is first needed."""

    def __init__(self, settings: EvaluateSettings, model: Path, tasks: Sequence[Path], work: Workspace) -> None:
        self._settings, self._model, self._tasks, self._work = settings, model, tasks, work

    @cached_property
    def _runner(self) -> Runner:
        return _runner(self._settings, self._model, self._tasks)

    def _seed(self, task: str) -> int:
        return derive_seed(self._settings.seed, "evaluate", task)

    def answer(self, missing: Sequence[_Unit]) -> None:
        """Run the units whose answers are not there yet."""
        note = self._work.scratch / _PRECISION
        if not note.exists():
            write_json(note, self._runner.precision)
        progress = self._work.progress(sum(len(unit.items) for unit in missing), "items")
        for unit in missing:
            items = sorted(unit.items, key=unit.items.__getitem__)
            seed = self._seed(unit.task)
            frame = self._runner.run([unit.task], {unit.task: items}, samples=unit.samples, seed=seed)
            with atomic_path(unit.file) as temporary:
                _write(frame.assign(model=self._model.name), temporary)
            progress.add(len(items), note=unit.task)

    def precision(self, frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
        """Return the model's precision, and what it makes of answers in other batches; measured once."""
        precision = json.loads((self._work.scratch / _PRECISION).read_text())
        if precision in EXACT:
            return {"precision": precision}
        file = self._work.folder / BATCH_JSON
        if not file.exists():
            write_json(file, batch_dependence(self._runner, frames, {task: self._seed(task) for task in frames}))
        found = json.loads(file.read_text())
        log.info("in %s, %d of %d answers differ in other batches", precision, found["different"], found["compared"])
        return {"precision": precision, "batch_dependence": found}


def _read(units: Sequence[_Unit]) -> pd.DataFrame:
    """A task's answers, in the order of its items."""
    places = {item: place for unit in units for item, place in unit.items.items()}
    frame = pd.concat([pd.read_parquet(unit.file) for unit in units], ignore_index=True)
    return frame.sort_values("item", key=lambda items: items.map(places), kind="stable", ignore_index=True)


def _runner(settings: EvaluateSettings, model: Path, tasks: Sequence[Path]) -> Runner:
    from rlgen.evaluation.engine import VllmEngine
    from rlgen.evaluation.harness import Harness, Runner, load_tasks
    from rlgen.evaluation.lengths import longest_sequence
    from rlgen.models import load_model, load_tokenizer

    if settings.evaluation.engine == "vllm":
        engine = VllmEngine(model, longest_sequence(load_tasks(tasks), load_tokenizer(model)))
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
