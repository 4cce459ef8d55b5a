"""The report's words, and what a rule's job is given."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlgen.study.sections.common import PositiveInt, Section


class Report(Section):
    """The page at the end."""

    title: str = "Why reinforcement learning generalises where supervised fine-tuning forgets"
    """The page's heading."""
    note: str | None = None
    """A paragraph at the top, for instance what the study cannot show."""


class Resources(Section):
    """What a rule's job is given."""

    threads: PositiveInt = 1
    """CPU threads; also OMP_NUM_THREADS of the job."""
    mem_mb: PositiveInt = 2000
    """Memory, in MB."""
    runtime: PositiveInt = 60
    """Time limit, in minutes."""
    gpus: Annotated[int, Field(ge=0, le=10**6)] = 0
    """GPUs, on each node."""
    launcher: Literal["executor", "submitit"] = "executor"
    """What submits the job: Snakemake's executor; or submitit, which can have several nodes, and requeues a job that
    meets its time limit or is preempted. For `sft`, `grpo` and `fit`. Without SLURM it runs on this machine."""
    nodes: PositiveInt = 1
    """Nodes of a job that submitit submits; threads, memory and GPUs are those of each."""

    @property
    def processes(self) -> int:
        """Processes of a job: one a GPU, and one a node at least."""
        return max(self.gpus, 1) * self.nodes
