"""What the rule files ask of a study: which models each rule makes, and what a job is given."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlgen.study.sections import (
    BenchmarkTask,
    ExistingArm,
    ExistingBase,
    GrpoArm,
    HubProblems,
    HubText,
    JsonlProblems,
    JsonlTask,
    JsonlText,
)
from rlgen.study.study import BASE, TEACHER, Study

NOTHING = "(?!)"
"""A pattern that no name fits."""
_MOST_MEMORY = 3
"""A job that is tried again is given more memory each time, up to so many times what the study says: it may have
failed for another reason, and no node may have more."""
_SITE = {"slurm_partition": "partition", "slurm_account": "account"}
"""What the SLURM plugin calls otherwise than SLURM."""


class Rules:
    """Wildcard patterns and resources of one study's rules."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def arms(self, method: str) -> str:
        """Pattern of the arms made by `method`: `sft` or `grpo`."""
        return _pattern([arm.name for arm in self._study.arms if arm.method == method])

    @property
    def adopted(self) -> str:
        """Pattern of the models that exist already."""
        base = [BASE] if isinstance(self._study.base, ExistingBase) else []
        teacher = [TEACHER] if self._study.teacher else []
        return _pattern(base + teacher + [arm.name for arm in self._study.arms if isinstance(arm, ExistingArm)])

    def model_files(self, model: str) -> list[str]:
        """Files of a model that exists already; none for one on the hub."""
        found = self._study.existing(model)
        return _files(found.folders) if found else []

    def reward_files(self, arm: str) -> list[str]:
        """The file of a user's own reward, if it lies under the working directory."""
        found = self._study.arm(arm)
        return found.reward_files if isinstance(found, GrpoArm) else []

    @property
    def mode_files(self) -> list[str]:
        """The file of the user's own mode of answers, if it lies under the working directory."""
        return self._study.interventions.mode_files

    @property
    def problem_files(self) -> list[str]:
        """The user's files and folders of training problems."""
        sources = self._study.problems.sources
        files = [str(source.path) for source in sources if isinstance(source, JsonlProblems)]
        return files + _files([source.path for source in sources if isinstance(source, HubProblems) and source.local])

    def task_files(self, task: str) -> list[str]:
        """The user's file of a task's items, if they come from one."""
        found = next((t for t in self._study.all_tasks if t.name == task), None)
        return [str(found.path)] if isinstance(found, (JsonlTask, BenchmarkTask)) and found.path else []

    @property
    def corpus_files(self) -> list[str]:
        """The user's files and folders of text."""
        sources = self._study.corpus.sources
        files = [str(source.path) for source in sources if isinstance(source, JsonlText)]
        return files + _files([source.path for source in sources if isinstance(source, HubText) and source.local])

    @property
    def localised(self) -> str:
        """Pattern of the fits whose features are localised."""
        return _pattern(list(self._study.localised))

    def documents(self, model: str) -> str:
        """Return the option by which `adopt` refuses a model that cannot keep the documents of a row apart."""
        return "--separate-documents" if self._study.corpus.separate_documents and model != TEACHER else ""

    @property
    def pretrained(self) -> bool:
        """Whether the base is made here."""
        return not isinstance(self._study.base, ExistingBase)

    @property
    def parts(self) -> range:
        """Parts of every final model's store; checkpoints have one."""
        return range(self._study.activations.parts)

    @property
    def keeps_stores(self) -> bool:
        """Whether stores stay when nothing reads them any more."""
        return self._study.activations.keep

    def threads(self, rule: str) -> int:
        """Threads of a rule's job."""
        return self._study.resources_of(rule).threads

    def resources(self, rule: str) -> dict[str, Any]:
        """Memory, time and GPUs of a rule's job, as Snakemake and its SLURM plugin name them."""
        found = self._study.resources_of(rule)
        # With a model of GPU that a profile names for all jobs, the plugin asks for a GPU where none is wanted.
        gpu = {"gpu": found.gpus} if found.gpus else {"gpu_model": ""}
        return {"mem_mb": lambda wildcards, attempt: self._mem_mb(rule, attempt), "runtime": found.runtime, **gpu}

    def _mem_mb(self, rule: str, attempt: int) -> int:
        return self._study.resources_of(rule).mem_mb * min(attempt, _MOST_MEMORY)

    def fit_processes(self, fit: str) -> int:
        """Processes of a fit's job."""
        return self._study.fit_processes(fit)

    def processes(self, rule: str) -> int:
        """Processes of an arm's job."""
        return self._study.resources_of(rule).processes

    def submitted(self, rule: str) -> bool:
        """Whether a rule's jobs are submitted by submitit; Snakemake runs but what waits for them."""
        return self._study.resources_of(rule).launcher == "submitit"

    def launch(self, rule: str, site: Mapping[str, str]) -> Callable[..., str]:
        """What stands before a rule's command: nothing, or the command that submits it.

        `site` is what profile and command line say of the rule's jobs, by the names of Snakemake's SLURM plugin.
        """
        found = self._study.resources_of(rule)

        def words(wildcards: Any, attempt: int) -> str:
            if not self.submitted(rule):
                return ""
            processes = self.fit_processes(wildcards.crosscoder) if rule == "fit" else self.processes(rule)
            numbers = {
                "nodes": found.nodes,
                "tasks-per-node": processes // found.nodes,
                "threads": found.threads,
                "gpus": found.gpus,
                "mem-mb": self._mem_mb(rule, attempt),
                "minutes": found.runtime,
            }
            said = [f"--{name} {number}" for name, number in numbers.items()]
            said += [f"--site {shlex.quote(f'{_SITE.get(name, name)}={value}')}" for name, value in site.items()]
            return f"submit {' '.join(said)} -- "

        return words


def _files(folders: list[str]) -> list[str]:
    """All files in folders: Snakemake looks at a folder's own time of change, not at its files'."""
    return [str(path) for folder in folders for path in sorted(Path(folder).rglob("*")) if path.is_file()]


def _pattern(names: list[str]) -> str:
    return "|".join(map(re.escape, names)) or NOTHING
