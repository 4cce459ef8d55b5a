"""Work of the causal tests: localisation, interventions and their controls, the oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rlgen.cluster.plan.language import Language
from rlgen.cluster.plan.sizes import Asked
from rlgen.cluster.plan.training import ask
from rlgen.cluster.plan.work import Work
from rlgen.study.sections import Crosscoder, Edit, Evaluation, Interventions, Localisation

REFERENCES, SINGLE = 2, 3
"""Unedited models; the edit, encode-decode and the ceiling."""
DAMAGE_TOKENS, DAMAGE_SETS = 2048, 7
"""Tokens of plain text, and conditions read on them."""
PROMPT_CONTEXT = 64
"""Tokens that the last prompt token sees."""
ACTIVE = 0.2
"""Share of a dictionary's features that are active at the last prompt token of some item."""
SCORES = 7
"""Choices of features that are edited together, and the unedited models."""
DRAWN = 2e-8
"""Seconds a feature, task item and resample of the nulls' draws take, all scores together."""


def selecting(tasks: Sequence[Asked], rule: Localisation) -> list[Asked]:
    """The half of the transfer tasks' items that features are selected on."""
    return [replace(task, items=round(rule.selection * task.items)) for task in tasks]


def measuring(tasks: Mapping[str, Sequence[Asked]], rule: Localisation, settings: Interventions) -> list[Asked]:
    """The items that edits are measured on: of the transfer tasks the other half, of the rest all."""
    most = settings.items or math.inf
    found = []
    for group, members in tasks.items():
        share = 1 - rule.selection if group == "transfer" else 1.0
        found += [replace(task, items=min(round(share * task.items), most)) for task in members]
    return [replace(task, samples=1 if task.choices else settings.samples) for task in found]


def localise(tasks: Sequence[Asked], rule: Localisation, crosscoder: Crosscoder, of: Language) -> Work:
    """Codes of both models, gradients, single features patched into base, and the nulls over items."""
    total = Work()
    draws = rule.permutations + rule.bootstrap
    for task in selecting(tasks, rule):
        tokens = task.items * task.answers * (task.prompt + task.length)
        passes = tokens / 2048
        codes = of.read(task.items * task.prompt, task.prompt / 2, passes=task.items / 64).times(2)
        gradients = of.read(tokens, task.prompt / 2, logits=tokens, passes=passes).times(3)
        patched = min(2 * rule.patched_items, task.items) * task.answers * (task.prompt + task.length)
        trials = of.read(patched, task.prompt / 2, logits=patched, passes=max(1.0, patched / 2048))
        total += codes + gradients + trials.times(rule.candidates)
        total += Work(seconds=DRAWN * draws * task.items * crosscoder.features)
    return total


def conditions(edit: Edit, settings: Interventions) -> int:
    """Times that the measurement items are answered, the unedited models' among them."""
    return REFERENCES + SINGLE + settings.draws + settings.directions + len(edit.sweep)


def intervene(
    tasks: Sequence[Asked], edit: Edit, settings: Interventions, evaluation: Evaluation, of: Language
) -> Work:
    """Every condition on every measurement item: prompts are read once, unless every token is edited."""
    total = Work()
    everywhere = edit.tokens in ("all", "prompt")
    for task in tasks:
        read = of.read(task.items * task.prompt, task.prompt / 2).times(REFERENCES)
        answers = ask(task, of, evaluation, engine="transformers", read=everywhere)
        total += read + answers.times(conditions(edit, settings))
    text = of.read(DAMAGE_TOKENS, 512, logits=DAMAGE_TOKENS, passes=1).times(DAMAGE_SETS)
    kept = settings.portion_tokens * of.shape.cached * of.machine.weight_bytes * REFERENCES
    whole = total + text
    return Work(**{**vars(whole), "memory": whole.memory + of.weights + kept})


def compare(
    selected: Sequence[Asked], measured: Sequence[Asked], crosscoder: Crosscoder, evaluation: Evaluation, of: Language
) -> Work:
    """Each feature that may be active is tried alone at the last prompt token; each score's features together."""
    items = sum(task.items for task in selected)
    alone = of.read(items, PROMPT_CONTEXT, logits=items, passes=max(1.0, items / evaluation.batch_size))
    total = alone.times(ACTIVE * crosscoder.features)
    for task in measured:
        total += ask(task, of, evaluation, engine="transformers", read=False).times(SCORES)
    return total
