"""Evaluation tasks: items.jsonl, and task.yaml, which lm-evaluation-harness reads.

The task file can be run by the harness alone (`lm_eval --include_path <folder> --tasks <name>`), from the folder
that the study's results path is relative to.
"""

from __future__ import annotations

import contextlib
import json
import logging
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rlgen.data.benchmarks import Benchmark, load_benchmark
from rlgen.data.harness_file import harness_file
from rlgen.data.hub import pin, read_hub
from rlgen.data.jsonl import check_file, read_rows, unique_names, write_rows
from rlgen.data.miniature import TASKS, draw_distinct
from rlgen.data.prompts import PromptError, PromptTemplate, check_template
from rlgen.data.rows import ASKED, Row
from rlgen.errors import StudyError
from rlgen.stage import atomic_path, derive_seed, stage, write_json
from rlgen.study.sections import BenchmarkTask, Evaluation, JsonlTask, MiniatureTask
from rlgen.study.stages import TaskSettings

log = logging.getLogger("rlgen")

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
    """Write the items of one task and its harness file.

    Args:
        settings: The task, and how it is evaluated.
        out: The folder to write.

    Raises:
        StudyError: The source has no rows or cannot be read, a row cannot be used (task, file, line and field are
            named), the prompt is no template or tells the answer, or the world has fewer items than asked for.
    """
    task, evaluation = settings.task, settings.evaluation
    path = None if isinstance(task, MiniatureTask) else task.path
    inputs = {} if path is None else {"source": path}
    if path is not None:
        with _named(task.name):
            check_file(path)
    with stage("task", settings, inputs, out) as work:
        about, rows = _open(task, settings.seed)
        count = write_rows(work.folder / ITEMS, unique_names(rows))
        if not count:
            where = f" ({path})" if path else ""
            raise StudyError(f"task `{task.name}`: its source has no rows{where}; an evaluation needs at least one")
        if about["format"] == "multiple_choice":
            _tell_equal_choices(task.name, read_items(work.folder))
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


Items = Iterator[tuple[str, dict[str, Any]]]
"""Where each item comes from, for messages, and the item."""
Opened = tuple[dict[str, Any], Items]
"""What a source adds to task.json, and its items."""


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


def _miniature(task: MiniatureTask, seed: int) -> Items:
    name = task.task or task.name
    if name not in TASKS:
        raise StudyError(f"task `{task.name}`: the miniature world has {', '.join(TASKS)}; say which by `task`")
    rng = np.random.default_rng(derive_seed(seed, "task", task.name))
    try:
        items = draw_distinct(TASKS[name], task.items, rng, "evaluation")
    except ValueError as error:
        raise StudyError(f"task `{task.name}`: {task.items} items asked for; {error}") from None
    for index, item in enumerate(items):
        found = {"id": f"{name}-{index}", "prompt": item.prompt, "answer": item.answer}
        yield f"task `{task.name}`, item {index}", found


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


def _benchmark_row(row: Row, benchmark: Benchmark) -> tuple[str, dict[str, Any]]:
    made = row.with_values({"id": row.name(), **benchmark.item(row)})
    return row.where, _item(made, made.text("prompt"), benchmark.format)


def _jsonl(task: JsonlTask) -> Items:
    try:
        template = check_template(task.prompt)
    except PromptError as error:
        raise StudyError(f"task `{task.name}`, prompt: {error}") from None
    return _jsonl_rows(task, template)


def _jsonl_rows(task: JsonlTask, template: PromptTemplate) -> Items:
    """Yield the items of a file; at its end, refuse a prompt with a field that is the answer of every row."""
    told = set(template.fields) if len(template.fields) > 1 else set()
    for row in _file_rows(task.name, task.path, task.items):
        where, item = _jsonl_row(row, template, task.format)
        right = _as_read(item)[item["answer"]] if "choices" in item else item["answer"].strip()
        told = {field for field in told if row.text(field, blank=True).strip() == right}
        yield where, item
    for field in told:
        raise StudyError(
            f"task `{task.name}`, prompt: the field `{field}` is the right answer in every row of {task.path}, so the "
            "model is told what to answer; remove it from the prompt"
        )


def _jsonl_row(row: Row, template: PromptTemplate, kind: str) -> tuple[str, dict[str, Any]]:
    item = _item(row, row.fill(template), kind)
    if kind == "multiple_choice" and _right_twice(item):
        raise row.wrong(
            "choices",
            f"has the right choice {item['answer']} twice, so the item has no answer; change or leave out the row",
        )
    return row.where, item


def _file_rows(task: str, path: Path, limit: int | None = None) -> Iterator[Row]:
    """Yield the rows of a file, which know the task that they are of."""
    with _named(task):
        for row in read_rows(path, limit):
            yield Row(f"task `{task}`: {row.where}", row.number, row.values)


@contextlib.contextmanager
def _named(task: str) -> Iterator[None]:
    """Put the task's name before what is wrong with its file."""
    try:
        yield
    except StudyError as error:
        raise StudyError(f"task `{task}`: {error}") from None


def _item(row: Row, prompt: str, kind: str) -> dict[str, Any]:
    found = {"id": row.name(), "prompt": prompt}
    asked = next((field for field in ASKED if isinstance(row.values.get(field), str)), None)
    if asked and (text := row.text(asked, blank=True)) != prompt:
        found["question"] = text
    if kind == "generate":
        return found | {"answer": row.text("answer")}
    choices = row.choices()
    return found | {"choices": choices, "answer": row.index("answer", len(choices))}


def _as_read(item: dict[str, Any]) -> list[str]:
    """Return an item's choices as a person reads them: without white space around, accents in one spelling."""
    return [unicodedata.normalize("NFC", choice.strip()) for choice in item["choices"]]


def _equal_choices(item: dict[str, Any]) -> bool:
    return len(set(_as_read(item))) < len(item["choices"])


def _right_twice(item: dict[str, Any]) -> bool:
    """Return whether another choice reads as the right one does."""
    choices = _as_read(item)
    return choices.count(choices[item["answer"]]) > 1


def _tell_equal_choices(task: str, items: list[dict[str, Any]]) -> None:
    """Log how many items have equal choices. Benchmarks keep them, as lm-evaluation-harness does."""
    if equal := sum(map(_equal_choices, items)):
        right = sum(map(_right_twice, items))
        text = "task `%s`: %d of %d items have equal choices; in %d of them, the right choice is there twice"
        log.info(text, task, equal, len(items), right)
