"""The base and its arms."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rlgen.adapter_folder import adapter_fault, is_adapter
from rlgen.study.checks.finding import Finding
from rlgen.study.sections import ExistingArm, ExistingBase, GrpoArm, PretrainedBase, SftArm, TrainedArm
from rlgen.study.study import BASE, TEACHER, Study


def check_models(study: Study) -> Iterator[Finding]:
    """What is wrong with the base, the arms and the layers that are read of them."""
    yield from _names(study)
    yield from _paths(study)
    yield from _width(study)
    yield from _arms(study)
    yield from _layers(study)


def _names(study: Study) -> Iterator[Finding]:
    for name, count in Counter(study.arm_names).items():
        if count > 1:
            yield Finding("arms", f"{count} arms are named `{name}`", "give every arm a name of its own")
    if BASE in study.arm_names:
        yield Finding("arms", "an arm is named `base`", "rename it; `base` is the base model's name")
    if study.teacher and TEACHER in study.arm_names:
        yield Finding("arms", "an arm is named `teacher`", "rename it; `teacher` is the teacher's name")


def _paths(study: Study) -> Iterator[Finding]:
    models: list[tuple[str, str, ExistingArm | None]] = []
    models += [("base.path", study.base.path, None)] if isinstance(study.base, ExistingBase) else []
    for i, arm in enumerate(study.arms):
        if isinstance(arm, ExistingArm):
            models.append((f"arms[{i}].path", arm.path, arm))
            models += [(f"arms[{i}].checkpoints[{j}]", path, arm) for j, path in enumerate(arm.checkpoints)]
    models += [("teacher.path", study.teacher.path, None)] if study.teacher else []
    for key, text, given in models:
        looks_local = text.startswith((".", "/")) or text.partition("@")[0].count("/") != 1 or Path(text).is_dir()
        if not looks_local:
            continue
        if is_adapter(Path(text)):
            yield from _adapter(key, text, given)
        elif not (Path(text) / "config.json").is_file():
            kinds = "config.json, or adapter_config.json (a PEFT adapter)" if given else "config.json"
            yield Finding(key, f"no model there: {text}", f"give a folder that holds {kinds}, or a hub id `owner/name`")


def _adapter(key: str, text: str, arm: ExistingArm | None) -> Iterator[Finding]:
    """Whether a folder with a PEFT adapter can be an arm."""
    if arm is None:
        problem = f"{text} is a PEFT adapter (it holds adapter_config.json), and only arms may be adapters"
        yield Finding(key, problem, "merge it into its base, and give the folder of the merged model")
    elif fault := adapter_fault(Path(text), arm.allow_pickle):
        yield Finding(key, f"{text}: {fault.problem}", fault.remedy)


def _width(study: Study) -> Iterator[Finding]:
    if isinstance(study.base, PretrainedBase) and study.base.hidden_size % study.base.heads:
        problem = f"{study.base.hidden_size} is not a multiple of base.heads ({study.base.heads})"
        yield Finding("base.hidden_size", problem, "choose a multiple")


def _arms(study: Study) -> Iterator[Finding]:
    for i, arm in enumerate(study.arms):
        if isinstance(arm, TrainedArm):
            yield from _batches(f"arms[{i}]", arm, study.resources_of(arm.method).processes)
            yield from _deepspeed(f"arms[{i}]", arm)
            yield from _checkpoints(f"arms[{i}]", arm, study.problems.most)
        if isinstance(arm, SftArm) and (most := study.problems.most_tokens) is not None and most >= arm.max_length:
            problem = f"problems of up to {most} tokens (problems.max_prompt_tokens, problems.max_solution_tokens)"
            yield Finding(f"arms[{i}].max_length", f"{arm.max_length} for {problem}", f"set it to {most + 1} or more")
        if isinstance(arm, GrpoArm) and arm.rollouts.server and arm.rollouts.engine == "transformers":
            problem = "a vLLM server is named, and `engine: transformers` does not use it"
            yield Finding(f"arms[{i}].rollouts.server", problem, "set engine to `vllm`, or leave the server out")


def _checkpoints(key: str, arm: TrainedArm, problems: int | None) -> Iterator[Finding]:
    """Yield whether an arm has fewer steps than checkpoints. `problems` is their number, if it is known."""
    if problems is None or arm.problems_per_step < 1:  # fewer completions than generations: `_batches` tells
        return
    if arm.checkpoints > (steps := arm.steps(problems)):
        problem = f"{arm.checkpoints} cannot be taken in {steps} steps"
        yield Finding(f"{key}.checkpoints", problem, f"ask for at most {steps}, or train longer")


def _batches(key: str, arm: TrainedArm, processes: int) -> Iterator[Finding]:
    """Whether an arm's batches can be shared by processes, forward passes and prompts."""
    if arm.micro_batch_size is None and arm.batch_size % processes:
        problem = f"{arm.batch_size} sequences cannot be shared by {processes} GPUs (resources.{arm.method}.gpus)"
        yield Finding(f"{key}.batch_size", problem, "use a multiple")
    elif arm.batch_size % (arm.sequences_per_pass(processes) * processes):
        each = f"{arm.micro_batch_size} on each of {processes} GPUs" if processes > 1 else f"{arm.micro_batch_size}"
        problem = f"{each} does not divide batch_size ({arm.batch_size})"
        yield Finding(f"{key}.micro_batch_size", problem, "choose a divisor")
    if isinstance(arm, GrpoArm) and arm.batch_size % arm.generations:
        problem = f"{arm.generations} does not divide batch_size ({arm.batch_size})"
        yield Finding(f"{key}.generations", problem, "choose a divisor")


def _deepspeed(key: str, arm: TrainedArm) -> Iterator[Finding]:
    needed = {"none": 0, "optimizer": 2, "all": 3}[arm.offload]
    if arm.zero < needed:
        problem = f"`{arm.offload}` with zero {arm.zero}"
        yield Finding(f"{key}.offload", problem, f"DeepSpeed offloads that with zero {needed} or more")


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
