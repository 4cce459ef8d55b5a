"""Work of the jobs that make models and ask them: pretraining, SFT, GRPO, the teacher, evaluation."""

from __future__ import annotations

from dataclasses import replace

from rlgen.cluster.plan.language import Answers, Language
from rlgen.cluster.plan.sizes import Asked, Sizes
from rlgen.cluster.plan.work import GIGA, Work
from rlgen.posttrain.memory import memory
from rlgen.study.sections import Evaluation, GrpoArm, PretrainedBase, SftArm, TrainedArm

STATE = 16
"""Bytes a weight of a training state: the weight in float32, its gradient's sum and two moments."""
KEPT = 0.9
"""Share of a GPU's memory that vLLM takes where it is alone."""
DOCUMENT = 32
"""Tokens of a document of the miniature world, padding included."""


def pretrain(base: PretrainedBase, of: Language) -> Work:
    """The miniature's base."""
    learnt = of.learn(base.steps * base.batch_size, DOCUMENT, steps=base.steps, passes=base.steps, again=False)
    return learnt + Work(written=of.weights, scratch=STATE * of.shape.parameters)


def post_train(arm: TrainedArm, of: Language, sizes: Sizes, gpus: int) -> Work:
    """An arm: rollouts first, if there are any, then learning from them; its checkpoints and the state beside."""
    devices = max(gpus, 1)
    steps = arm.steps(round(sizes.problems))
    sequences = float(steps * arm.batch_size)
    written, length = Work(), 0.0
    if isinstance(arm, GrpoArm):
        answers = sizes.rollouts(arm)
        length = answers.prompt + answers.length
        batch, room = _rollouts(arm, of, devices)
        # A device's share of a step, which ends with its longest answer.
        each = replace(answers, count=arm.batch_size / devices)
        written = of.write(each, batch=batch, room=room).times(steps * devices)
        if arm.beta:
            written += of.read(sequences * length, length / 2, logits=sequences * answers.length)
    elif isinstance(arm, SftArm):
        length = sizes.solution(arm)
    again = arm.gradient_checkpointing if arm.gradient_checkpointing is not None else gpus > 0
    passes = float(steps * arm.passes_per_step(devices) * devices)
    learnt = of.learn(sequences, length, steps=steps, passes=passes, again=again)
    files = Work(written=of.weights * arm.checkpoints, scratch=STATE * of.shape.parameters)
    found = memory(arm, of.shape, devices, of.machine.memory / GIGA)
    total = written + learnt + files
    return Work(**{**vars(total), "memory": GIGA * sum(found.values())})


def _rollouts(arm: GrpoArm, of: Language, devices: int) -> tuple[float | None, float]:
    """How an arm's completions are written, as `Language.write` has it: `auto` is taken for vLLM on a GPU."""
    if arm.rollouts.engine == "transformers" or of.machine.name == "CPU":
        return arm.batch_size / devices, 0.0
    return None, max(arm.rollouts.gpu_memory * of.machine.memory - of.weights, GIGA)


def teach(of: Language, sizes: Sizes, gpus: int, batch: int, engine: str) -> Work:
    """The teacher's attempts, by vLLM with its weights shared by all GPUs of the job."""
    if engine == "vllm":
        room = max(KEPT * of.machine.memory * max(gpus, 1) - of.weights, GIGA)
        shared = of.write(sizes.teacher, batch=None, room=room)
        return Work(**{**vars(shared), "memory": min(shared.memory / max(gpus, 1), KEPT * of.machine.memory)})
    return of.write(sizes.teacher, batch=batch, room=0.0)


def evaluate(asked: list[Asked], of: Language, evaluation: Evaluation) -> Work:
    """Every item of every task, by every sample."""
    total = Work()
    for task in asked:
        total += ask(task, of, evaluation, engine=evaluation.engine)
    tokens = sum(task.items * task.answers * (task.prompt + task.length) for task in asked)
    return total + Work(written=8 * tokens)


def ask(task: Asked, of: Language, evaluation: Evaluation, *, engine: str, read: bool = True) -> Work:
    """One task put to one model; `read`: its prompts are read for it, and not kept from before."""
    prompts = task.items * task.prompt
    if task.choices:
        tokens = task.items * task.choices * task.length
        scored = of.read(tokens, task.prompt, logits=tokens, passes=task.items * task.choices / evaluation.batch_size)
        return scored + (of.read(prompts, task.prompt / 2) if read else Work())
    answers = Answers(task.items * task.samples, task.prompt if read else 1.0, task.length, task.longest)
    if engine == "vllm" and of.machine.name != "CPU":
        return of.write(answers, batch=None, room=max(KEPT * of.machine.memory - of.weights, GIGA))
    batch: float = evaluation.batch_size
    if evaluation.batch_tokens:
        batch = min(batch, max(1.0, evaluation.batch_tokens / (task.prompt + task.longest)))
    return of.write(answers, batch=batch, room=0.0)
