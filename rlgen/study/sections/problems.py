"""Training problems: where they come from, and which of them are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rlgen.study.sections.common import HubPath, LocalPath, Name, PositiveInt, Section, Verifier, WorldTask


class MiniatureProblems(Section):
    """Problems drawn from the miniature world, apart from the items of its tasks."""

    source: Literal["miniature"]
    task: WorldTask = "mod"
    """The one task that both arms are trained on."""
    items: PositiveInt = 4096
    """Number of problems."""


class _Rows(Section):
    """What problems of a file and of a data set share: the fields of their rows."""

    problem: str = "problem"
    """Field with the problem's text."""
    answer: str = "answer"
    """Field with the final answer."""
    solution: str | None = "solution"
    """Field with the worked solution that SFT learns; null if there is none."""
    level: str | None = None
    """Field with the difficulty: a number, or a text whose first number counts, as in `Level 3`."""
    levels: tuple[float, float] | None = None
    """Lowest and highest difficulty kept; all if not given."""
    items: PositiveInt | None = None
    """Problems kept, from the first; all if not given."""


class JsonlProblems(_Rows):
    """Problems of a local JSONL file."""

    source: Literal["jsonl"]
    path: LocalPath
    """One JSON object a line."""


class HubProblems(_Rows):
    """Problems of a Hugging Face data set, pinned to its commit and streamed."""

    source: Literal["hub"]
    path: HubPath
    """Hub id, or a folder of data files. JSON, CSV and TSV are read as they were written, the rest by `datasets`."""
    name: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Its split."""
    revision: str | None = None
    """Commit, tag or branch on the hub; the commit that it is when the problems are made is what is read."""

    @property
    def local(self) -> bool:
        """Whether it is a folder here."""
        return Path(self.path).is_dir()


ProblemSource = Annotated[MiniatureProblems | JsonlProblems | HubProblems, Field(discriminator="source")]


class Problems(Section):
    """What every arm that is trained here is trained on: the same problems in the same order."""

    sources: list[ProblemSource] = []
    """Where they come from, one after the other. May be empty if no arm is trained here and nothing else reads them."""
    prompt: str = "{problem}\n"
    """What a model is given: text with the field `{problem}`; braces that are text are doubled. The miniature's
    problems are prompts already."""
    shuffle: bool = False
    """Whether the problems of all sources are mixed, by the study's seed."""
    max_prompt_tokens: PositiveInt | None = None
    """Longest prompt, in tokens of the base's tokenizer; longer ones are left out of both arms."""
    max_solution_tokens: PositiveInt | None = None
    """Longest solution, its end token included, in tokens of the base's tokenizer; longer ones leave both arms."""
    decontaminate: list[Name] | None = None
    """Tasks whose items must not be among the problems; all of the study's if not given."""
    unverifiable: Literal["refuse", "drop", "keep"] = "refuse"
    """What becomes of a problem by whose answer the verifier cannot judge responses: no response would be right, or a
    near miss would be. Unless it is `refuse`, rows of the hub with an empty field are left out, too."""
    verifier: Verifier | None = None
    """What judges answers to the problems, in the reward `final_answer`, the teacher and the filter `unverifiable`; the
    study's `verifier` if not given."""

    @property
    def from_rows(self) -> bool:
        """Whether some do not come from the miniature world."""
        return any(source.source != "miniature" for source in self.sources)

    @property
    def limited(self) -> bool:
        """Whether tokens are counted."""
        return self.max_prompt_tokens is not None or self.max_solution_tokens is not None

    @property
    def most(self) -> int | None:
        """How many there are if none is left out; None if that is not known here."""
        counts = [source.items for source in self.sources]
        return None if None in counts or not counts else sum(count for count in counts if count)

    @property
    def most_tokens(self) -> int | None:
        """Tokens of the longest prompt and solution that are let through; None if that is not limited."""
        limits = (self.max_prompt_tokens, self.max_solution_tokens)
        return None if None in limits else sum(limit for limit in limits if limit)
