"""Tasks, corpus and stores: whether their files are there and their sizes fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlgen.data import benchmarks
from rlgen.data.prompts import PromptError, check_template
from rlgen.study.checks.finding import Finding
from rlgen.study.sections import BenchmarkTask, HubText, JsonlTask, JsonlText, PretrainedBase
from rlgen.study.study import Study

POSITIONS = 256
"""Longest sequence that the pretrained base is made for (`rlgen.posttrain.pretrain`)."""


def check_data(study: Study) -> Iterator[Finding]:
    """What is wrong with tasks, corpus and stores."""
    yield from _task_names(study)
    yield from _prompts(study)
    yield from _benchmarks(study)
    yield from _files(study)
    yield from _world(study)
    yield from _sizes(study)


def _task_names(study: Study) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for group, names in study.task_groups.items():
        for name in names:
            if name in seen:
                where = f"listed in `{seen[name]}` and `{group}`" if seen[name] != group else "listed twice"
                yield Finding(f"tasks.{group}", f"task `{name}` is {where}", "list each task once, in one group")
            seen[name] = group


def _prompts(study: Study) -> Iterator[Finding]:
    """Yield prompts of tasks that are no templates, or tell the model the answer."""
    for group, tasks in study.tasks:
        for i, task in enumerate(tasks):
            if isinstance(task, JsonlTask):
                try:
                    check_template(task.prompt)
                except PromptError as error:
                    yield Finding(f"tasks.{group}[{i}].prompt", error.problem, error.remedy)


def _benchmarks(study: Study) -> Iterator[Finding]:
    known = benchmarks.names()
    for group, tasks in study.tasks:
        for i, task in enumerate(tasks):
            if isinstance(task, BenchmarkTask) and task.benchmark_name not in known:
                key = f"tasks.{group}[{i}].{'benchmark' if task.benchmark else 'name'}"
                yield Finding(key, f"no benchmark `{task.benchmark_name}`", benchmarks.nearest(task.benchmark_name))


def _files(study: Study) -> Iterator[Finding]:
    local: list[tuple[str, Path]] = []
    for group, tasks in study.tasks:
        from_files = ((i, t.path) for i, t in enumerate(tasks) if isinstance(t, (JsonlTask, BenchmarkTask)))
        local += [(f"tasks.{group}[{i}].path", path) for i, path in from_files if path]
    sources = enumerate(study.corpus.sources)
    local += [(f"corpus.sources[{i}].path", s.path) for i, s in sources if isinstance(s, JsonlText)]
    for key, path in local:
        if not path.is_file():
            yield Finding(key, f"no such file: {path}", "give a JSONL file, relative to the working directory")
    for i, source in enumerate(study.corpus.sources):
        if isinstance(source, HubText) and not source.local and source.path.startswith((".", "/")):
            problem = f"no such folder: {source.path}"
            yield Finding(f"corpus.sources[{i}].path", problem, "give a folder of data files, or a hub id")


def _world(study: Study) -> Iterator[Finding]:
    if isinstance(study.base, PretrainedBase):
        if study.corpus.row_length > POSITIONS:
            problem = f"rows of {study.corpus.row_length} tokens for a base made for {POSITIONS}"
            yield Finding("corpus.row_length", problem, f"use at most {POSITIONS}")
        return
    uses: list[tuple[str, str]] = []
    for group, tasks in study.tasks:
        uses += [(f"tasks.{group}[{i}].source", task.source) for i, task in enumerate(tasks)]
    uses += [(f"corpus.sources[{i}].source", source.source) for i, source in enumerate(study.corpus.sources)]
    for key, source in uses:
        if source == "miniature":
            problem = "the miniature world needs the base that is pretrained on it"
            yield Finding(key, problem, "set base.method to `pretrain`, or use source `jsonl`")


def _sizes(study: Study) -> Iterator[Finding]:
    corpus, activations = study.corpus, study.activations
    shards = -(-corpus.tokens // activations.shard_tokens)
    if shards < activations.parts:
        problem = (
            f"{corpus.tokens} tokens make {shards} shards of {activations.shard_tokens} for {activations.parts} parts"
        )
        yield Finding("activations.parts", problem, "use fewer, or smaller activations.shard_tokens")
    if activations.shard_tokens % activations.chunk_tokens:
        problem = f"{activations.shard_tokens} is not a multiple of chunk_tokens ({activations.chunk_tokens})"
        yield Finding("activations.shard_tokens", problem, "choose a multiple")
    if activations.mode == "streamed" and activations.chunk_tokens != activations.shard_tokens:
        problem = f"whole shards of {activations.shard_tokens} tokens would be computed for chunks of fewer"
        yield Finding("activations.chunk_tokens", problem, "with mode `streamed`, set it to activations.shard_tokens")
