"""The report's words, and what a rule's job is given."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from rlgen.study.sections.common import Section


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
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs."""
