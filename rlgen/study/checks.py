"""What one section's types cannot say: whether the parts of a study fit together."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlgen.study.sections import (
    Crosscoder,
    ExistingArm,
    ExistingBase,
    GrpoArm,
    HubText,
    JsonlProblems,
    JsonlTask,
    JsonlText,
    PretrainedBase,
    Resources,
    SftArm,
    TrainedArm,
)
from rlgen.study.study import BASE, Study

RULES = (
    *("problems", "task", "corpus", "pretrain", "sft", "grpo", "adopt", "perturb", "evaluate", "dump", "fit"),
    *("diagnose", "attribute", "track", "localise", "intervene", "summary", "report"),
)
"""The workflow's rules that may be given resources of their own."""
POSITIONS = 256
"""Longest sequence that the pretrained base is made for (`rlgen.posttrain.pretrain`)."""


@dataclass(frozen=True)
class Finding:
    """One wrong setting: its key's path, what is wrong with it, and what to do."""

    key: str
    problem: str
    remedy: str


def check(study: Study) -> list[Finding]:
    """Everything about the study's settings that cannot work together. Empty if it can be run."""
    return [
        *_names(study),
        *_files(study),
        *_world(study),
        *_arms(study),
        *_layers(study),
        *_crosscoders(study),
        *_causal(study),
        *_sizes(study),
        *_resources(study),
    ]


def _names(study: Study) -> Iterator[Finding]:
    for name, count in Counter(study.arm_names).items():
        if count > 1:
            yield Finding("arms", f"{count} arms are named `{name}`", "give every arm a name of its own")
    if BASE in study.arm_names:
        yield Finding("arms", "an arm is named `base`", "rename it; `base` is the base model's name")
    seen: dict[str, str] = {}
    for group, names in study.task_groups.items():
        for name in names:
            if name in seen:
                where = f"listed in `{seen[name]}` and `{group}`" if seen[name] != group else "listed twice"
                yield Finding(f"tasks.{group}", f"task `{name}` is {where}", "list each task once, in one group")
            seen[name] = group
    for name in study.crosscoders:
        if name.startswith("null-"):
            yield Finding(f"crosscoders.{name}", "starts with `null-`", "rename it; the nulls are named so")


def _files(study: Study) -> Iterator[Finding]:
    local: list[tuple[str, Path]] = []
    if isinstance(study.problems, JsonlProblems):
        local.append(("problems.path", study.problems.path))
    for group, tasks in study.tasks:
        local += [(f"tasks.{group}[{i}].path", t.path) for i, t in enumerate(tasks) if isinstance(t, JsonlTask)]
    sources = enumerate(study.corpus.sources)
    local += [(f"corpus.sources[{i}].path", s.path) for i, s in sources if isinstance(s, JsonlText)]
    for key, path in local:
        if not path.is_file():
            yield Finding(key, f"no such file: {path}", "give a JSONL file, relative to the working directory")
    for i, source in enumerate(study.corpus.sources):
        if isinstance(source, HubText) and not source.local and source.path.startswith((".", "/")):
            problem = f"no such folder: {source.path}"
            yield Finding(f"corpus.sources[{i}].path", problem, "give a folder of data files, or a hub id")
    models = [("base.path", study.base.path)] if isinstance(study.base, ExistingBase) else []
    for i, arm in enumerate(study.arms):
        if isinstance(arm, ExistingArm):
            models.append((f"arms[{i}].path", arm.path))
            models += [(f"arms[{i}].checkpoints[{j}]", path) for j, path in enumerate(arm.checkpoints)]
    for key, text in models:
        looks_local = text.startswith((".", "/")) or text.partition("@")[0].count("/") != 1
        if looks_local and not (Path(text) / "config.json").is_file():
            yield Finding(
                key, f"no model there: {text}", "give a folder that holds config.json, or a hub id `owner/name`"
            )


def _world(study: Study) -> Iterator[Finding]:
    if isinstance(study.base, PretrainedBase):
        if study.base.hidden_size % study.base.heads:
            problem = f"{study.base.hidden_size} is not a multiple of base.heads ({study.base.heads})"
            yield Finding("base.hidden_size", problem, "choose a multiple")
        if study.corpus.row_length > POSITIONS:
            problem = f"rows of {study.corpus.row_length} tokens for a base made for {POSITIONS}"
            yield Finding("corpus.row_length", problem, f"use at most {POSITIONS}")
        return
    uses: list[tuple[str, str]] = [("problems.source", study.problems.source)]
    for group, tasks in study.tasks:
        uses += [(f"tasks.{group}[{i}].source", task.source) for i, task in enumerate(tasks)]
    uses += [(f"corpus.sources[{i}].source", source.source) for i, source in enumerate(study.corpus.sources)]
    for key, source in uses:
        if source == "miniature":
            problem = "the miniature world needs the base that is pretrained on it"
            yield Finding(key, problem, "set base.method to `pretrain`, or use source `jsonl`")


def _arms(study: Study) -> Iterator[Finding]:
    for i, arm in enumerate(study.arms):
        if isinstance(arm, TrainedArm):
            if arm.batch_size % arm.sequences_per_pass:
                problem = f"{arm.sequences_per_pass} does not divide batch_size ({arm.batch_size})"
                yield Finding(f"arms[{i}].micro_batch_size", problem, "choose a divisor")
            steps = _most_steps(study, arm)
            if steps is not None and arm.checkpoints > steps:
                problem = f"{arm.checkpoints} cannot be taken in {steps} steps"
                yield Finding(f"arms[{i}].checkpoints", problem, f"ask for at most {steps}, or train longer")
        if isinstance(arm, GrpoArm):
            if arm.batch_size % arm.generations or arm.sequences_per_pass % arm.generations:
                problem = f"{arm.generations} does not divide batch_size and micro_batch_size"
                yield Finding(f"arms[{i}].generations", problem, "choose a divisor of both")
            if arm.reward.count(":") != 1 or not all(arm.reward.split(":")):
                yield Finding(f"arms[{i}].reward", f"given '{arm.reward}'", "write it as `package.module:function`")
        if isinstance(arm, SftArm) and isinstance(study.problems, JsonlProblems) and study.problems.solution is None:
            problem = f"arm `{arm.name}` learns solutions, and there are none"
            yield Finding("problems.solution", problem, "name the field with the worked solution")


def _most_steps(study: Study, arm: TrainedArm) -> int | None:
    """Optimiser steps of an arm if none of its problems is too long; None if their number is not known here."""
    if study.problems.items is None:
        return None
    per_step = arm.batch_size / arm.generations if isinstance(arm, GrpoArm) else arm.batch_size
    return max(1, round(arm.epochs * study.problems.items / per_step))


def _layers(study: Study) -> Iterator[Finding]:
    depth = _depth(study)
    for i, layer in enumerate(study.activations.layers):
        if depth is not None and layer > depth:
            problem = f"layer {layer} of a model with {depth} blocks"
            yield Finding(f"activations.layers[{i}]", problem, f"choose from 1 to {depth}")
    if len(set(study.activations.layers)) < len(study.activations.layers):
        yield Finding("activations.layers", "a layer is listed twice", "list each once")


def _depth(study: Study) -> int | None:
    """Number of decoder blocks of the base, None if it is on the hub and so not known here."""
    if isinstance(study.base, PretrainedBase):
        return study.base.layers
    config = Path(study.base.path) / "config.json"
    if not config.is_file():
        return None
    depth = json.loads(config.read_text()).get("num_hidden_layers")
    return depth if isinstance(depth, int) else None


def _crosscoders(study: Study) -> Iterator[Finding]:
    for name in study.crosscoders:
        variants = study.variants(name)
        own = list(_crosscoder(study, f"crosscoders.{name}", variants.pop(name)))
        yield from own
        for variant, fit in variants.items():
            for found in _crosscoder(study, f"crosscoders.{name}", fit):
                if found not in own:
                    yield Finding(f"crosscoders.{name}.grid", f"of `{variant}`, {found.problem}", found.remedy)


def _crosscoder(study: Study, key: str, fit: Crosscoder) -> Iterator[Finding]:
    known = study.models
    for i, model in enumerate(fit.models):
        if model not in known:
            yield Finding(f"{key}.models[{i}]", f"no model `{model}`", f"use one of: {', '.join(known)}")
    if len(set(fit.models)) < len(fit.models):
        yield Finding(f"{key}.models", "a model is listed twice", "list each once; `nulls` pairs base with itself")
    if fit.layer is not None and fit.layer not in study.activations.layers:
        layers = ", ".join(map(str, study.activations.layers))
        problem = f"layer {fit.layer} is not dumped"
        yield Finding(f"{key}.layer", problem, f"add it to activations.layers, or use one of: {layers}")
    if fit.sparsity in ("batch_topk", "topk") and fit.k > fit.features:
        yield Finding(f"{key}.k", f"k {fit.k} exceeds features ({fit.features})", "choose a smaller k")
    for model in fit.dedicated:
        if model not in fit.models:
            yield Finding(f"{key}.dedicated.{model}", "not one of its models", "add it to models, or leave it out")
    if sum(fit.dedicated.values()) >= fit.features:
        yield Finding(f"{key}.dedicated", f"no feature of {fit.features} is left to share", "dedicate fewer")
    if fit.features % fit.feature_shards:
        problem = f"{fit.features} features cannot be shared by {fit.feature_shards} processes evenly"
        yield Finding(f"{key}.feature_shards", problem, "use a divisor of features")
    gpus = study.resources.get("fit", study.resources.get("default", Resources())).gpus
    if gpus % fit.feature_shards:
        problem = f"{gpus} GPUs (resources.fit.gpus) cannot share the features in {fit.feature_shards}"
        yield Finding(f"{key}.feature_shards", problem, "use a divisor of the GPUs, or give more of them")
    if fit.delta_weight and BASE not in fit.models:
        problem = "the delta loss is taken against base, which this crosscoder lacks"
        yield Finding(f"{key}.delta_weight", problem, "add base to its models, or set 0")


def _causal(study: Study) -> Iterator[Finding]:
    names = ", ".join(study.crosscoders)
    low, high = study.attribution.nrn_range
    if low >= high:
        yield Finding("attribution.nrn_range", f"{low:g} is not below {high:g}", "give the lower end first")
    if study.tracking is not None:
        for i, name in enumerate(study.tracking.crosscoders):
            key = f"tracking.crosscoders[{i}]"
            if name not in study.crosscoders:
                yield Finding(key, f"no crosscoder `{name}`", f"use one of: {names}")
            elif len(study.crosscoders[name].models) != 2 or BASE not in study.crosscoders[name].models:
                yield Finding(key, f"`{name}` does not join base and one arm", "name a pairwise crosscoder with base")
    if study.localisation is not None:
        found = study.localisation
        if found.crosscoder not in study.crosscoders:
            yield Finding("localisation.crosscoder", f"no crosscoder `{found.crosscoder}`", f"use one of: {names}")
        elif not {BASE, found.arm} <= set(study.crosscoders[found.crosscoder].models):
            problem = f"`{found.crosscoder}` does not join base and `{found.arm}`"
            yield Finding("localisation.crosscoder", problem, "name one that does")
        if found.arm not in study.arm_names:
            yield Finding("localisation.arm", f"no arm `{found.arm}`", f"use one of: {', '.join(study.arm_names)}")
    if study.nulls is not None:
        if study.nulls.like not in study.crosscoders:
            yield Finding("nulls.like", f"no crosscoder `{study.nulls.like}`", f"use one of: {names}")
        if study.nulls.noise_like not in study.arm_names:
            arms = ", ".join(study.arm_names)
            yield Finding("nulls.noise_like", f"no arm `{study.nulls.noise_like}`", f"use one of: {arms}")


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
    if study.tracking is not None and study.tracking.tokens > corpus.tokens:
        problem = f"{study.tracking.tokens} exceeds corpus.tokens ({corpus.tokens})"
        yield Finding("tracking.tokens", problem, "track on at most the corpus")
    if study.localisation is not None:
        share = study.localisation.selection
        for task in study.tasks.transfer:
            if task.items is not None and not 0 < round(share * task.items) < task.items:
                problem = f"{share:g} of the {task.items} items of `{task.name}` is none, or all of them"
                remedy = "some must select and some measure: choose another share, or give the task more items"
                yield Finding("localisation.selection", problem, remedy)


def _resources(study: Study) -> Iterator[Finding]:
    known = ("default", *RULES)
    for name in study.resources:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            yield Finding(f"resources.{name}", f"no rule `{name}`", f"{hint}use one of: {', '.join(known)}")
