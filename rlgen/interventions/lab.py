"""One live model, every edit that is tried on it, and what it answers under each (METHOD: interventions)."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd
from torch import Tensor
from transformers import PreTrainedModel

from rlgen.evaluation.harness import Harness
from rlgen.evaluation.lm import prompt_key
from rlgen.evaluation.mode import Mode
from rlgen.interventions import edits, effects
from rlgen.interventions.controls import matched_sets, matched_shift, random_direction
from rlgen.interventions.decisions import Decisions
from rlgen.interventions.edits import Change, Contribution, Delta, Donor, Site, added, as_long_as
from rlgen.interventions.localised import Localised
from rlgen.models import device, edited, load_model, load_tokenizer
from rlgen.stage import derive_seed
from rlgen.study.sections import Amplification, TokenSet
from rlgen.study.stages import InterveneSettings

Condition = tuple[str, int]
"""A condition's name and its draw, 0 where there is but one."""
Portion = dict[str, list[str]]
"""Items by task that are asked together."""

REFERENCE = (effects.DONOR, effects.BASELINE)
"""Conditions that others are compared with, in the order in which they are run."""


class Lab:
    """The edited model, its donor, and all conditions over one plan of batches."""

    def __init__(
        self,
        edit: str,
        settings: InterveneSettings,
        localised: Sequence[Localised],
        models: dict[str, Path],
        tasks: list[Path],
    ) -> None:
        """`models` are those of `base` and `arm`; `localised` are of one layer each."""
        self.edit, self.settings, self.localised = edit, settings, list(localised)
        self._models, self._tasks = models, tasks
        self.here = effects.EDITED[edit]
        self.donor = "arm" if self.here == "base" else "base"
        self._mode = Mode(settings.mode)
        self._decisions = Decisions()
        self._donors: dict[int, Donor] = {}

    # ------------------------------------------------------------------------------------ what is tried

    @property
    def conditions(self) -> list[Condition]:
        """Everything that is measured beside the unedited models, the edit first."""
        found = self.settings
        single = [(name, 0) for name in (effects.EFFECT, effects.ENCODE_DECODE, effects.CEILING)]
        several = {effects.MATCHED: found.draws, effects.DIRECTION: found.directions, effects.SWEEP: len(self.sweep)}
        return [*single, *((name, draw) for name, count in several.items() for draw in range(count))]

    @property
    def sweep(self) -> list[float]:
        """Further strengths, as multiples of the edit's own."""
        return self.settings.edit.sweep

    @property
    def features(self) -> list[int]:
        """The localised features, layer after layer."""
        return [feature for localised in self.localised for feature in localised.features]

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to edit: no feature, or strength 0."""
        return not self.features or self.alpha == 0

    @cached_property
    def alpha(self) -> float:
        """The edit's strength: as given, or such that the injected norm is as given (at the first layer)."""
        edit, first = self.settings.edit, self.localised[0]
        length = float(first.steps_KD.sum(dim=0).norm())
        if not isinstance(edit, Amplification) or edit.norm is None or length == 0:
            return edit.alpha
        usual = math.sqrt(first.crosscoder.config.d) / float(first.crosscoder.scale[first.slots["base"]])
        return edit.norm * usual / length

    @cached_property
    def draws(self) -> list[list[list[int]]]:
        """By layer: random feature sets matched to the localised ones."""
        of = self.settings
        return [matched_sets(found.rate_F, found.features, of.draws, of.seed) for found in self.localised]

    def changes(self, condition: Condition) -> dict[int, Change]:
        """What a condition puts in the place of the activations, by index of the layer."""
        name, draw = condition
        if name in REFERENCE:
            return {}
        return {index: self._change(index, name, draw) for index in range(len(self.localised))}

    def _change(self, index: int, name: str, draw: int) -> Change:
        found = self.localised[index]
        if name == effects.ENCODE_DECODE:
            return edits.encode_decode(found.crosscoder, found.slots[self.here])
        if name == effects.CEILING:
            return edits.patch(self._donor(index))
        own = self._delta(found, index, found.features)
        if name == effects.MATCHED:
            return added(self._matched(found, index, own, draw), self.alpha)
        if name == effects.DIRECTION:
            return added(as_long_as(own, None, self._direction(found, draw)), self.alpha)
        return added(own, self.alpha * (self.sweep[draw] if name == effects.SWEEP else 1.0))

    def _delta(self, found: Localised, index: int, features: list[int]) -> Delta:
        if self.edit == "amplify":
            return edits.constant(found.steps_KD.sum(dim=0))
        contribution = Contribution(found.crosscoder, found.slots[self.here], features)
        if self.edit == "scale":
            return edits.scaled(contribution)
        if self.edit in ("transplant", "revert"):
            theirs = Contribution(found.crosscoder, found.slots[self.donor], features)
            return edits.transplanted(contribution, theirs, self._donor(index))
        return edits.removed(contribution, self._remains(found) if self.edit == "mean_ablate" else None)

    def _matched(self, found: Localised, index: int, own: Delta, draw: int) -> Delta:
        stand_ins = self.draws[index][draw]
        rows_FD = found.crosscoder.decoder_rows(found.slots["arm"]).detach()
        shift_D = matched_shift(rows_FD, found.features, found.steps_KD, stand_ins)
        if self.edit == "amplify":
            return edits.constant(shift_D)
        if self.edit == "mean_ablate":  # what remains is the localised features'
            other = edits.removed(Contribution(found.crosscoder, found.slots[self.here], stand_ins))
        else:
            other = self._delta(found, index, stand_ins)
        return as_long_as(own, other, shift_D)

    def _remains(self, found: Localised) -> Tensor:
        """What mean ablation leaves of the features: their contribution at mean codes."""
        return found.decoded[self.here].sum(dim=0)

    def _direction(self, found: Localised, draw: int) -> Tensor:
        return random_direction(found.crosscoder.config.d, draw, self.settings.seed).to(device())

    def _donor(self, index: int) -> Donor:
        if index not in self._donors:
            self._donors[index] = Donor(self.donor_model, self.localised[index].layer, self.harness.positions)
        return self._donors[index]

    # --------------------------------------------------------------------------------------- who is asked

    @cached_property
    def model(self) -> PreTrainedModel:
        """The edited model."""
        return load_model(self._models[self.here])

    @cached_property
    def harness(self) -> Harness:
        """The edited model's."""
        return self._harness(self.model, self.here)

    @cached_property
    def donor_model(self) -> PreTrainedModel:
        """The other model."""
        return load_model(self._models[self.donor])

    @cached_property
    def donor_harness(self) -> Harness:
        """The other model's."""
        return self._harness(self.donor_model, self.donor)

    def _harness(self, model: PreTrainedModel, name: str) -> Harness:
        tokenizer, settings = load_tokenizer(self._models[name]), self.settings
        found = Harness(model, tokenizer, self._tasks, settings.evaluation, settings.verifiers)
        found.watch(self._decisions.listen, self.settings.edit.tokens in ("last_prompt", "answer"))
        return found

    @cached_property
    def portions(self) -> list[Portion]:
        """The measurement items, in portions whose prompts together are of limited length.

        A task's items with the same prompt are in one, that of the first: an answer's random numbers follow from how
        often its prompt has been asked in a run. The answers are those of one portion.
        """
        found: list[Portion] = [{}]
        room = self.settings.portion_tokens
        for task in self.harness.tasks:
            ids = self.harness.prompt_ids(task)
            groups: dict[bytes, list[str]] = {}
            for item in self.localised[0].measurement_items.get(task, list(ids))[: self.settings.items]:
                groups.setdefault(prompt_key(ids[item]), []).append(item)
            for group in groups.values():
                length = sum(len(ids[item]) for item in group)
                room -= length
                if room < 0 and found[-1]:
                    found.append({})
                    room = self.settings.portion_tokens - length
                found[-1].setdefault(task, []).extend(group)
        return found

    def references(self, portion: Portion) -> dict[Condition, pd.DataFrame]:
        """What both unedited models answer; to be asked before the conditions of the same portion."""
        self._decisions.clear()
        for harness in (self.harness, self.donor_harness):
            harness.forget()
        for donor in self._donors.values():
            donor.clear()
        asked = {effects.DONOR: (self.donor_harness, self.donor), effects.BASELINE: (self.harness, self.here)}
        frames = {}
        for name in REFERENCE:
            harness, model = asked[name]
            frames[name] = self._ask(harness, portion)
            self._decisions.remember(model)
        tables = {name: self._decisions.of_reference(asked[name][1], self._keys(frames[name])) for name in REFERENCE}
        return {(name, 0): frames[name].join(tables[name]) for name in REFERENCE}

    def at(self, localised: Sequence[Localised]) -> Lab:
        """The same models and items with other features to edit."""
        other = copy.copy(self)
        other.localised = list(localised)
        for name in ("alpha", "draws"):
            other.__dict__.pop(name, None)
        return other

    def weaker(self, share: float) -> Lab:
        """The same with a share of the edit's strength, in every condition that has one."""
        other = copy.copy(self)
        other.__dict__["alpha"] = share * self.alpha
        return other

    def decide(self, condition: Condition, prompts: Sequence[Sequence[int]]) -> pd.DataFrame:
        """As `run`'s kl_base and kl_arm, of prompts given as token ids, without answers; references come first."""
        keys = [prompt_key(ids) for ids in prompts]
        if condition[0] == effects.DONOR:
            self.donor_harness.decide(prompts)
        else:
            with self.edited(self.changes(condition)):
                self.harness.decide(prompts)
        if condition[0] in REFERENCE:
            model = self.donor if condition[0] == effects.DONOR else self.here
            self._decisions.remember(model)
            return self._decisions.of_reference(model, keys)
        return self._decisions.divergences(keys)

    def run(self, condition: Condition, portion: Portion) -> pd.DataFrame:
        """What the edited model answers: one row (task, item, sample, right, answer, mode, kl_base, kl_arm, ...)."""
        with self.edited(self.changes(condition)):
            frame = self._ask(self.harness, portion)
        return frame.join(self._decisions.divergences(self._keys(frame)))

    @contextlib.contextmanager
    def edited(self, changes: dict[int, Change], everywhere: bool = False) -> Iterator[None]:
        """While the block lasts, the model is edited at the study's token set, or at every token."""
        tokens = "all" if everywhere else self.settings.edit.tokens
        with contextlib.ExitStack() as hooks:
            for index, change in changes.items():
                hooks.enter_context(
                    edited(self.model, self.localised[index].layer, self.site(index, tokens).edit(change))
                )
            yield

    def site(self, index: int, tokens: TokenSet) -> Site:
        """Where a layer is edited."""
        found = self.localised[index]
        return Site(self.harness.positions, tokens, found.crosscoder, found.slots[self.here], self.harness.bos)

    def _ask(self, harness: Harness, portion: Portion) -> pd.DataFrame:
        frame = harness.run(
            tasks=list(portion),
            items=portion,
            samples=self.settings.samples,
            seed=derive_seed(self.settings.seed, "intervene", "sampling"),
        )
        frame = frame.drop(columns="response_ids")  # only localisation reads them, of the evaluations
        return frame.assign(mode=self._mode.of(frame), length=frame["response"].str.len())

    def _keys(self, frame: pd.DataFrame) -> list[bytes]:
        by_task = {task: self.harness.prompt_keys(task) for task in frame["task"].unique()}
        return [by_task[task][item] for task, item in zip(frame["task"], frame["item"], strict=True)]
