"""Evaluation tasks: items.jsonl, and task.yaml, which lm-evaluation-harness reads.

The task file can be run by the harness alone (`lm_eval --include_path <folder> --tasks <name>`), from the folder
that the study's results path is relative to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rlgen.data.benchmarks import Benchmark, load_benchmark
from rlgen.data.harness_file import harness_file
from rlgen.data.hub import pin, read_hub
from rlgen.data.jsonl import Row, read_rows, unique_names, write_rows
from rlgen.data.miniature import TASKS, draw_distinct
from rlgen.errors import StudyError
from rlgen.stage import atomic_path, derive_seed, stage, write_json
from rlgen.study.sections import BenchmarkTask, Evaluation, JsonlTask, MiniatureTask
from rlgen.study.stages import TaskSettings

ITEMS = "items.jsonl"
"""Rows {id, prompt, answer} (generate) or {id, prompt, choices, answer} (multiple_choice; answer is an index), with
`question`, the item's text without the prompt's trimmings, where it has any."""
TASK_YAML = "task.yaml"
"""The task as lm-evaluation-harness reads it."""
TASK_JSON = "task.json"
"""What other stages read: {name, format, items}; free answers: {max_new_tokens, stop}, `samples` where it is not the
evaluation's; choices: {metrics}; benchmarks: {benchmark, harness, source, revision}."""

_STOP = ["Question:", "</s>", "<|im_end|>"]
"""Where a free answer ends, beside the end token: as in the harness's gsm8k; a base model goes on asking."""
_CHOICE_METRICS = ["acc", "acc_norm"]


def make_task(settings: TaskSettings, out: Path) -> None:
    """Write one task's items and its harness file.

    Raises StudyError if the source has no rows or cannot be read, a row lacks a field or has an answer that is none
    of its choices (task, file, line and field are named), or the world's task has fewer items than asked for.
    """
    task, evaluation = settings.task, settings.evaluation
    inputs = {} if isinstance(task, MiniatureTask) or task.path is None else {"source": task.path}
    with stage("task", settings, inputs, out) as work:
        about, rows = _open(task, settings.seed)
        count = write_rows(work.folder / ITEMS, unique_names(rows))
        if not count:
            raise StudyError(f"task `{task.name}`: its source has no rows; an evaluation needs at least one")
        about = {"name": task.name, "items": count, **about}
        if about["format"] == "generate":
            about = _limits(task, evaluation) | about
        write_json(work.folder / TASK_JSON, about)
        with atomic_path(work.folder / TASK_YAML) as temporary:
            samples = about.get("samples", evaluation.samples)
            temporary.write_text(harness_file(about, samples, evaluation.temperature, out / ITEMS, settings.verifier))


def read_items(folder: Path) -> list[dict[str, Any]]:
    """The rows of a task artifact."""
    with (folder / ITEMS).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


Opened = tuple[dict[str, Any], Iterator[dict[str, Any]]]
"""What a source adds to task.json, and its rows."""


def _open(task: MiniatureTask | JsonlTask | BenchmarkTask, seed: int) -> Opened:
    if isinstance(task, MiniatureTask):
        return {"format": "generate", "stop": []}, _miniature(task, seed)
    if isinstance(task, BenchmarkTask):
        return _benchmark(task)
    kind = {"stop": _STOP} if task.format == "generate" else {"metrics": _CHOICE_METRICS}
    return {"format": task.format, **kind}, _jsonl(task)


def _limits(task: MiniatureTask | JsonlTask | BenchmarkTask, evaluation: Evaluation) -> dict[str, Any]:
    """How often and how long a free answer is."""
    own = load_benchmark(task.benchmark_name).max_new_tokens if isinstance(task, BenchmarkTask) else None
    longest = task.max_new_tokens or own or evaluation.max_new_tokens
    return {"max_new_tokens": longest, **({"samples": task.samples} if task.samples else {})}


def _miniature(task: MiniatureTask, seed: int) -> Iterator[dict[str, Any]]:
    name = task.task or task.name
    if name not in TASKS:
        raise StudyError(f"task `{task.name}`: the miniature world has {', '.join(TASKS)}; say which by `task`")
    rng = np.random.default_rng(derive_seed(seed, "task", task.name))
    try:
        items = draw_distinct(TASKS[name], task.items, rng, "evaluation")
    except ValueError as error:
        raise StudyError(f"task `{task.name}`: {task.items} items asked for; {error}") from None
    for index, item in enumerate(items):
        yield {"id": f"{name}-{index}", "prompt": item.prompt, "answer": item.answer}


def _benchmark(task: BenchmarkTask) -> Opened:
    key, name = f"task `{task.name}`", task.benchmark_name
    benchmark = load_benchmark(name)
    hub = benchmark.dataset
    if task.path is not None:
        source, revision, rows = str(task.path), None, _file_rows(task.name, task.path)
    else:
        source = f"{hub.path} ({hub.name or 'default'}, {hub.split})"
        revision = pin(hub.path, task.revision or hub.revision, key)
        rows = map(benchmark.normalise, read_hub(hub.path, hub.name, hub.split, revision, key, hub.files))
    kind = {"metrics": benchmark.metrics} if benchmark.format == "multiple_choice" else {"stop": benchmark.stop}
    about = {"benchmark": name, "harness": benchmark.harness, "source": source, "revision": revision}
    items = (_benchmark_row(row, benchmark) for row in islice(rows, task.items))
    return {"format": benchmark.format, **kind, **about}, items


def _benchmark_row(row: Row, benchmark: Benchmark) -> dict[str, Any]:
    made = row.with_values({"id": row.name(), **benchmark.item(row)})
    return _item(made, made.get("prompt"), benchmark.format)


def _jsonl(task: JsonlTask) -> Iterator[dict[str, Any]]:
    return (_item(row, row.fill(task.prompt), task.format) for row in _file_rows(task.name, task.path, task.items))


def _file_rows(task: str, path: Path, limit: int | None = None) -> Iterator[Row]:
    """Rows of a file that know which task they are of."""
    return (Row(f"task `{task}`: {row.where}", row.number, row.values) for row in read_rows(path, limit))


def _item(row: Row, prompt: str, kind: str) -> dict[str, Any]:
    text = row.values.get("question", row.values.get("problem"))
    found = {"id": row.name(), "prompt": prompt}
    if isinstance(text, str) and text != prompt:
        found["question"] = text
    return found | ({"answer": row.text("answer")} if kind == "generate" else _choices(row))


def _choices(row: Row) -> dict[str, Any]:
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise StudyError(f"{row.where}: field `choices` must be a list of two texts or more")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise StudyError(f"{row.where}: field `answer` is {answer!r}; it must be an index into {len(choices)} choices")
    return {"choices": choices, "answer": answer}
