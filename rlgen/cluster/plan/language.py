"""What language models cost: reading, writing, learning (the usual counts: 2 operations a weight and token)."""

from __future__ import annotations

from dataclasses import dataclass

from rlgen.cluster.plan.work import Machine, Work
from rlgen.posttrain.memory import Shape

PASS_TOKENS = 16384
"""Tokens that one call of a model is taken to read, where a stage does not say."""
CONCURRENT = 256
"""Answers that vLLM writes side by side at most, on one GPU."""


@dataclass(frozen=True)
class Answers:
    """What is asked and answered: numbers of tokens are means."""

    count: float
    prompt: float
    length: float
    longest: float
    """The limit: who writes in fixed batches waits for the longest."""


@dataclass(frozen=True)
class Language:
    """One model on one kind of machine."""

    shape: Shape
    machine: Machine

    @property
    def weights(self) -> float:
        """Bytes of its weights."""
        return float(self.shape.parameters * self.machine.weight_bytes)

    @property
    def body(self) -> int:
        """Weights of all blocks."""
        return self.shape.layers * self.shape.block

    def read(
        self, tokens: float, context: float, *, logits: float = 0.0, depth: float = 1.0, passes: float | None = None
    ) -> Work:
        """A forward pass over tokens that see `context` others on average, through the first `depth` of the blocks.

        `logits` counts the tokens whose next one is scored.
        """
        shape = self.shape
        each = 2 * self.body + 4 * shape.layers * shape.width * context
        flops = tokens * each * depth + logits * 2 * shape.vocabulary * shape.width
        return Work(flops=flops, passes=tokens / PASS_TOKENS if passes is None else passes, memory=self.weights)

    def learn(self, sequences: float, length: float, *, steps: float, passes: float, again: bool) -> Work:
        """Forward and backward passes, and Adam's steps. `passes` are forward calls; `again`: activations are computed
        twice, not kept.

        A step moves 28 bytes a weight: it, its gradient and two moments are read, all but the gradient written.
        """
        tokens = sequences * length
        forward = self.read(tokens, length / 2, logits=tokens, passes=passes)
        optimiser = Work(moved=28.0 * steps * self.shape.parameters)
        return forward.times(4 if again else 3) + optimiser

    def write(self, answers: Answers, *, batch: float | None, room: float) -> Work:
        """Answers, token by token, after their prompts are read.

        `batch` of them are written together until the longest ends, or (None, as vLLM does) as many as have room in
        `room` bytes of keys and values, one following another.
        """
        kept = self.shape.cached * self.machine.weight_bytes
        total = answers.count * answers.length
        if batch is None:
            side_by_side = min(CONCURRENT, answers.count, room / (kept * (answers.prompt + answers.length)))
            calls = max(total / max(side_by_side, 1.0), answers.longest)
        else:
            side_by_side = min(batch, answers.count)
            calls = answers.longest * answers.count / max(side_by_side, 1.0)
        context = answers.prompt + answers.length / 2
        prompts = self.read(answers.count * answers.prompt, answers.prompt / 2, logits=answers.count)
        tokens = self.read(total, context, logits=total, passes=calls)
        moved = calls * self.weights + total * kept * context
        held = side_by_side * kept * (answers.prompt + answers.length)
        return prompts + tokens + Work(moved=moved, memory=self.weights + held)
