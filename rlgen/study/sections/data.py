"""Tasks and their evaluation, and the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rlgen.study.sections.common import (
    HubPath,
    LocalPath,
    Name,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    TokenCount,
    Verifier,
    WorldTask,
)


class _Task(Section):
    """What every evaluation task says."""

    name: Name
    """The task's name."""
    samples: PositiveInt | None = None
    """Samples per generated item; `evaluation.samples` if not given."""
    max_new_tokens: PositiveInt | None = None
    """Longest generated answer, in tokens; the benchmark's own or else `evaluation.max_new_tokens` if not given."""
    verifier: Verifier | None = None
    """What judges generated answers to this task; the study's `verifier` if not given."""


class MiniatureTask(_Task):
    """An evaluation task of the miniature world: free generation, the final answer is compared."""

    source: Literal["miniature"]
    task: WorldTask | None = None
    """The world's task, if its name is not the task's own."""
    items: PositiveInt = 400
    """Number of items, drawn apart from the training problems."""


class JsonlTask(_Task):
    """An evaluation task from a local JSONL file."""

    source: Literal["jsonl"]
    path: LocalPath
    """One JSON object a line."""
    format: Literal["multiple_choice", "generate"]
    """`multiple_choice`: log-likelihood of `choices`, `answer` is an index. `generate`: free text, `answer` is text."""
    items: PositiveInt | None = None
    """Rows used, from the first; all if not given."""
    prompt: str = "Question: {question}\nAnswer:"
    """Text with fields of the row in braces, such as `{question}`; braces that are text are doubled. It must not use
    `{answer}` or `{solution}`."""


class BenchmarkTask(_Task):
    """A benchmark by lm-evaluation-harness's own prompts and metrics (`rlgen.data.benchmarks`)."""

    source: Literal["benchmark"]
    benchmark: str | None = None
    """The benchmark, if its name is not the task's own."""
    path: LocalPath | None = None
    """A local JSONL file of normalised rows; without it, the benchmark's data set on the hub is read."""
    revision: str | None = None
    """Commit or tag of the data set on the hub (of LogiQA and HEAD-QA: of its parquet export). Without it, what is
    there today is taken."""
    items: PositiveInt | None = None
    """Rows used, from the first; all if not given."""

    @property
    def benchmark_name(self) -> str:
        """The benchmark's name."""
        return self.benchmark or self.name


Task = Annotated[MiniatureTask | JsonlTask | BenchmarkTask, Field(discriminator="source")]


class Tasks(Section):
    """The evaluation tasks, in three groups; a task belongs to one group."""

    train_domain: list[Task] = []
    """Tasks of the domain that the arms are trained on."""
    transfer: Annotated[list[Task], Field(min_length=1)]
    """Tasks never trained on; localisation selects features here."""
    unseen: list[Task] = []
    """Tasks neither trained on nor used to select features."""


class Evaluation(Section):
    """How every model is evaluated (lm-evaluation-harness)."""

    samples: PositiveInt = 1
    """Samples per generated item."""
    temperature: NonNegative = 1.0
    """Sampling temperature; 0 is greedy."""
    max_new_tokens: PositiveInt = 32
    """Longest generated answer, in tokens."""
    batch_size: PositiveInt = 256
    """Sequences per batch."""
    batch_tokens: PositiveInt | None = None
    """Tokens per batch at most, padding and answers included: batches of long sequences have fewer of them. No limit
    if not given."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What answers in the stage `evaluate`: interventions edit the live model, which only `transformers` has."""


class MiniatureText(Section):
    """Documents of the miniature world, all tasks and both modes, as the base is pretrained on."""

    source: Literal["miniature"]
    weight: PositiveFloat = 1.0
    """Share of the corpus' tokens, relative to the other sources."""


class ProblemText(Section):
    """The training problems with their solutions."""

    source: Literal["problems"]
    weight: PositiveFloat = 1.0
    """Share of the corpus' tokens, relative to the other sources."""


class JsonlText(Section):
    """Text of a local JSONL file, repeated from its start if it is too short."""

    source: Literal["jsonl"]
    path: LocalPath
    """One JSON object a line."""
    field: str = "text"
    """Field with the document's text."""
    weight: PositiveFloat = 1.0
    """Share of the corpus' tokens, relative to the other sources."""


class HubText(Section):
    """Text of a Hugging Face data set, streamed: nothing of it is kept but token ids."""

    source: Literal["hub"]
    path: HubPath
    """Hub id, or a folder of data files. JSON, CSV and TSV are read as they were written, the rest by `datasets`."""
    name: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Its split."""
    revision: str | None = None
    """Commit, tag or branch on the hub; the commit that it is when the corpus is begun is what is read."""
    field: str = "text"
    """Field with the document's text."""
    weight: PositiveFloat = 1.0
    """Share of the corpus' tokens, relative to the other sources."""

    @property
    def local(self) -> bool:
        """Whether it is a folder here."""
        return Path(self.path).is_dir()


Text = Annotated[MiniatureText | ProblemText | JsonlText | HubText, Field(discriminator="source")]


class Corpus(Section):
    """The token ids on which every model's activations are taken."""

    tokens: TokenCount
    """Size, in tokens; rounded down to whole rows."""
    row_length: Annotated[int, Field(ge=8, le=10**9)] = 1024
    """Tokens per packed row."""
    separate_documents: bool = False
    """Documents of a row do not attend to one another, and their positions start anew."""
    sources: Annotated[list[Text], Field(min_length=1)]
    """Where the text comes from, mixed by weight."""
