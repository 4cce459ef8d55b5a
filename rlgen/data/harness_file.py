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


_HOOKS = {
    "math": "process_results",
    "text": "process_results_text",
    "choice": "process_results_choice",
    "number": "process_results_number",
    "rlgen.data.miniature:judge": "process_results_miniature",
}
"""Functions of `rlgen.evaluation.scoring` by the verifier that they judge by."""


def harness_file(about: Mapping[str, Any], samples: int, temperature: float, items: Path, verifier: str) -> str:
    """Return a task in the harness's own terms.

    Args:
        about: What task.json holds.
        samples: Samples of each generated answer.
        temperature: Of sampling; 0 is greedy.
        items: The file of the task's rows.
        verifier: What judges generated answers if the harness runs the task alone. Only rlgen's own are named in the
            file; with the user's own, the harness alone refuses to judge.
    """
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
            "process_results": _Function(f"rlgen.evaluation.scoring.{_HOOKS.get(verifier, 'process_results_own')}"),
            "generation_kwargs": {
                "until": about["stop"],
                "do_sample": temperature > 0,
                "temperature": temperature,
                "max_gen_toks": about["max_new_tokens"],
            },
        }
    return yaml.dump(task, Dumper=_Dumper, sort_keys=False)
