"""A task's file for lm-evaluation-harness: prompts and targets are fields, so nothing is left to templates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class _Function(str):
    """A function that the harness imports by name."""


class _Dumper(yaml.SafeDumper):
    """Writes `_Function` with the harness's own tag."""


_Dumper.add_representer(_Function, lambda dumper, value: dumper.represent_scalar("!function", str(value)))


def harness_file(about: Mapping[str, Any], samples: int, temperature: float, items: Path) -> str:
    """The task of `about` (task.json) over the rows of the file `items`, in the harness's own terms."""
    metrics = about.get("metrics", ["acc"])
    task: dict[str, Any] = {
        "task": about["name"],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items)}},
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
        "metadata": {"version": 1.0},
    }
    if about["format"] == "multiple_choice":
        task |= {"output_type": "multiple_choice", "doc_to_choice": "choices"}
    else:
        take = {"function": "take_first_k", "k": samples}
        task |= {
            "output_type": "generate_until",
            "repeats": samples,
            "filter_list": [{"name": "all", "filter": [take]}],
            "process_results": _Function("rlgen.evaluation.scoring.process_results"),
            "generation_kwargs": {
                "until": about["stop"],
                "do_sample": temperature > 0,
                "temperature": temperature,
                "max_gen_toks": about["max_new_tokens"],
            },
        }
    return yaml.dump(task, Dumper=_Dumper, sort_keys=False)
