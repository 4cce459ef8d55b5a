"""Evaluation tasks: items.jsonl, and task.yaml, which lm-evaluation-harness reads.

The task file can be run by the harness alone (`lm_eval --include_path <folder> --tasks <name>`), from the folder
that the study's results path is relative to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlgen.data.jsonl import Row, read_rows, unique_names, write_rows
from rlgen.data.miniature import TASKS, draw_distinct
from rlgen.errors import StudyError
from rlgen.stage import atomic_path, derive_seed, stage, write_json
from rlgen.study.sections import Evaluation, JsonlTask, MiniatureTask
from rlgen.study.stages import TaskSettings

ITEMS = "items.jsonl"
"""Rows {id, prompt, answer} (generate) or {id, prompt, choices, answer} (multiple_choice; answer is an index)."""
TASK_YAML = "task.yaml"
"""The task as lm-evaluation-harness reads it."""
TASK_JSON = "task.json"
"""What other stages read: {name, format, items, max_new_tokens, stop}."""

_STOP = ["Question:", "</s>", "<|im_end|>"]
"""Where a free answer ends, beside the end token: as in the harness's gsm8k; a base model goes on asking."""


def make_task(settings: TaskSettings, out: Path) -> None:
    """Write one task's items and its harness file.

    Raises StudyError if the source has no rows, a row lacks a field or has an answer that is none of its choices
    (file, line and field are named), or the world's task has fewer items than asked for.
    """
    task = settings.task
    inputs = {"source": task.path} if isinstance(task, JsonlTask) else {}
    with stage("task", settings, inputs, out) as work:
        if isinstance(task, MiniatureTask):
            kind, stop, rows = "generate", list[str](), _miniature(task, settings.seed)
        else:
            kind, stop, rows = task.format, _STOP, _jsonl(task)
        count = write_rows(work.folder / ITEMS, unique_names(rows))
        if not count:
            raise StudyError(f"task `{task.name}`: its source has no rows; an evaluation needs at least one")
        about = {"name": task.name, "format": kind, "items": count}
        if kind == "generate":
            about |= {"max_new_tokens": settings.evaluation.max_new_tokens, "stop": stop}
        write_json(work.folder / TASK_JSON, about)
        with atomic_path(work.folder / TASK_YAML) as temporary:
            temporary.write_text(_harness_file(about, settings.evaluation, out / ITEMS))


def read_items(folder: Path) -> list[dict[str, Any]]:
    """The rows of a task artifact."""
    with (folder / ITEMS).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


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


def _jsonl(task: JsonlTask) -> Iterator[dict[str, Any]]:
    make = _choice_row if task.format == "multiple_choice" else _text_row
    return (make(row, task.prompt) for row in read_rows(task.path, task.items))


def _text_row(row: Row, prompt: str) -> dict[str, Any]:
    return {"id": row.name(), "prompt": row.fill(prompt), "answer": row.text("answer")}


def _choice_row(row: Row, prompt: str) -> dict[str, Any]:
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise StudyError(f"{row.where}: field `choices` must be a list of two texts or more")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise StudyError(f"{row.where}: field `answer` is {answer!r}; it must be an index into {len(choices)} choices")
    return {"id": row.name(), "prompt": row.fill(prompt), "choices": choices, "answer": answer}


class _Function(str):
    """A function that the harness imports by name."""


class _Dumper(yaml.SafeDumper):
    """Writes `_Function` with the harness's own tag."""


_Dumper.add_representer(_Function, lambda dumper, value: dumper.represent_scalar("!function", str(value)))


def _harness_file(about: dict[str, Any], evaluation: Evaluation, items: Path) -> str:
    """The task in the harness's own terms; prompts and targets are fields, so nothing is left to templates."""
    task: dict[str, Any] = {
        "task": about["name"],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items)}},
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    if about["format"] == "multiple_choice":
        task |= {"output_type": "multiple_choice", "doc_to_choice": "choices"}
    else:
        take = {"function": "take_first_k", "k": evaluation.samples}
        sampled = evaluation.temperature > 0
        task |= {
            "output_type": "generate_until",
            "repeats": evaluation.samples,
            "filter_list": [{"name": "all", "filter": [take]}],
            "process_results": _Function("rlgen.evaluation.scoring.process_results"),
            "generation_kwargs": {
                "until": about["stop"],
                "do_sample": sampled,
                "temperature": evaluation.temperature,
                "max_gen_toks": about["max_new_tokens"],
            },
        }
    return yaml.dump(task, Dumper=_Dumper, sort_keys=False)
