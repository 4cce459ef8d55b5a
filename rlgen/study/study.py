"""The whole study, and the names that follow from it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rlgen.study.sections import (
    Activations,
    AnyArm,
    AnyModel,
    Attribution,
    Base,
    Corpus,
    Crosscoder,
    CrosscoderEntry,
    Evaluation,
    ExistingArm,
    Interventions,
    Localisation,
    LocalPath,
    Name,
    Nulls,
    Problems,
    Report,
    Resources,
    Section,
    Seed,
    Task,
    Tasks,
    Teacher,
    Tracking,
    Verifier,
)
from rlgen.study.variants import expand, replicates

BASE = "base"
"""The base's name among the models."""
TEACHER = "teacher"
"""The teacher's name among the models, if there is one."""
NOISE = "base+noise"
"""The null arm: the base with norm-matched weight noise."""
NULL, NOISE_NULL = "null-base-base", "null-base-noise"
"""The nulls' crosscoders."""
EDITS = ("amplify", "transplant", "scale", "ablate", "mean_ablate", "revert")
"""Kinds of edits, as the page lists them: three in base, three in the arm."""


def _none_is_empty(value: Any) -> Any:
    """Take a section that is null for one that is left out."""
    return {} if value is None else value


class Study(Section):
    """All settings of a study. One file holds one study; `config.yaml` is the miniature's."""

    study: Name
    """The study's name: its results are under `<results>/<study>/`."""
    results: LocalPath = Path("results")
    """Root of all studies' results, for instance on a scratch file system."""
    seed: Seed = 0
    """Every stage's random numbers follow from it."""
    verifier: Verifier = "math"
    """What judges whether a final answer is right: `math`, `text`, `choice`, `number`, or your own
    `package.module:function` of (response, gold). Rewards, teacher, filters and evaluations share it."""
    base: Base
    problems: Annotated[Problems, BeforeValidator(_none_is_empty)] = Problems()
    """May be left out if every arm was trained elsewhere (`method: existing`) and nothing else reads problems."""
    teacher: Teacher | None = None
    arms: list[AnyArm] = Field(min_length=1)
    """The post-trained models."""
    tasks: Tasks
    evaluation: Evaluation = Evaluation()
    corpus: Corpus
    activations: Activations
    crosscoders: dict[Name, CrosscoderEntry] = Field(min_length=1)
    """Crosscoders by name, each with the seeds and the grid it is fitted with."""
    attribution: Attribution = Attribution()
    tracking: Tracking | None = None
    localisation: Localisation | None = None
    interventions: Interventions = Interventions()
    nulls: Nulls | None = None
    report: Report = Report()
    resources: dict[str, Resources] = {}
    """Threads, memory, time and GPUs by rule; `default` is for the rules not named."""
    monitors: list[Literal["tensorboard", "wandb"]] = []
    """Services that are told the arms' curves while they are trained. Another choice reruns nothing."""

    @property
    def arm_names(self) -> list[str]:
        """Names of the arms, as listed."""
        return [arm.name for arm in self.arms]

    @property
    def models(self) -> list[str]:
        """The models that are evaluated: the base and the arms."""
        return [BASE, *self.arm_names]

    def arm(self, name: str) -> AnyArm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def existing(self, model: str) -> AnyModel | None:
        """The model of that name, the base, the teacher or an arm, if it exists already."""
        if model == TEACHER and self.teacher is not None:
            return self.teacher
        found = self.base if model == BASE else self.arm(model)
        return found if isinstance(found, AnyModel) else None

    def earlier_checkpoints(self, arm: str) -> list[str]:
        """Models `arm@1`, `arm@2`, ...: the arm's checkpoints before the finished one, oldest first."""
        settings = self.arm(arm)
        count = len(settings.checkpoints) if isinstance(settings, ExistingArm) else settings.checkpoints - 1
        return [f"{arm}@{index}" for index in range(1, count + 1)]

    @property
    def problems_verifier(self) -> str:
        """The verifier of answers to the training problems."""
        return self.problems.verifier or self.verifier

    def task_verifier(self, task: Task) -> str:
        """Return the verifier of generated answers to a task."""
        return task.verifier or self.verifier

    @property
    def task_groups(self) -> dict[str, list[str]]:
        """Task names by group, as listed."""
        return {
            "train_domain": [task.name for task in self.tasks.train_domain],
            "transfer": [task.name for task in self.tasks.transfer],
            "unseen": [task.name for task in self.tasks.unseen],
        }

    @property
    def task_names(self) -> list[str]:
        """Names of all tasks, group after group."""
        return [task.name for task in self.all_tasks]

    @property
    def decontaminated(self) -> list[str]:
        """Tasks that the problems are compared with: the miniature's are drawn apart from them."""
        chosen = self.problems.decontaminate
        return (self.task_names if chosen is None else chosen) if self.problems.from_rows else []

    @property
    def all_tasks(self) -> list[Task]:
        """Every task, group after group."""
        return [*self.tasks.train_domain, *self.tasks.transfer, *self.tasks.unseen]

    def tasks_of(self, model: str) -> list[Task]:
        """The tasks that a model answers; features are but localised on the noised base: its are the transfer tasks."""
        return self.tasks.transfer if model == NOISE else self.all_tasks

    @property
    def measured_groups(self) -> dict[str, list[str]]:
        """Task names by group, of the groups that interventions are measured on; the others are empty."""
        chosen = self.interventions.groups
        return {group: names if group in chosen else [] for group, names in self.task_groups.items()}

    @property
    def null_crosscoders(self) -> dict[str, Crosscoder]:
        """The nulls: base joined with itself, and with its noised copy."""
        if self.nulls is None:
            return {}
        like = self.variants(self.nulls.like)[self.nulls.like]
        return {
            NULL: like.model_copy(update={"models": [BASE, BASE], "dedicated": {}}),
            NOISE_NULL: like.model_copy(update={"models": [BASE, NOISE], "dedicated": {}}),
        }

    @property
    def localised(self) -> dict[str, str]:
        """The fits whose features are localised and tested, the study's own first, with the arm each explains.

        The last one may be the null: base and its noised copy.
        """
        rule = self.localisation
        if rule is None:
            return {}
        own = dict.fromkeys([rule.crosscoder, *self.replicates[rule.crosscoder], *rule.compare], rule.arm)
        return own | ({NOISE_NULL: NOISE} if self.nulls else {})

    @property
    def edits(self) -> list[str]:
        """Kinds of edits that are made."""
        return [kind for kind in EDITS if getattr(self.interventions, kind) is not None]

    @property
    def main_edit(self) -> str | None:
        """The edit in base that leaves no strength to choose, if it is made, or else the one that adds a shift, or
        scales; None if no edit is made in base."""
        return next((kind for kind in ("transplant", "amplify", "scale") if kind in self.edits), None)

    def edits_of(self, fit: str) -> list[str]:
        """Kinds of edits made with the features of a fit: all with the study's own, the main one with others."""
        own = self.localisation is not None and fit == self.localisation.crosscoder
        return self.edits if own else [self.main_edit] if self.main_edit else []

    def edited_with(self, fit: str) -> list[str]:
        """The fits whose features are edited together, one a layer."""
        assert self.localisation is not None
        together = self.interventions.with_layers if fit == self.localisation.crosscoder else []
        return [fit, *together]

    def variants(self, crosscoder: str) -> dict[str, Crosscoder]:
        """Every fit of a crosscoder's entry by name: its own settings, and those of its seeds and its grid."""
        return expand(crosscoder, self.crosscoders[crosscoder], self.activations.layers[0])

    @cached_property
    def fits(self) -> dict[str, Crosscoder]:
        """Every crosscoder that is fitted: all entries' variants, and the nulls."""
        variants = [self.variants(name) for name in self.crosscoders]
        return {name: fit for found in (*variants, self.null_crosscoders) for name, fit in found.items()}

    @cached_property
    def replicates(self) -> dict[str, list[str]]:
        """For every fit, those that differ from it in nothing but the seed."""
        return replicates(self.fits)

    def resources_of(self, rule: str) -> Resources:
        """What a rule's job is given."""
        return self.resources.get(rule, self.resources.get("default", Resources()))

    def fit_processes(self, fit: str) -> int:
        """Processes of a fit's job: one a GPU; without GPUs as many as share its features, and one a node at least."""
        given = self.resources_of("fit")
        return given.processes if given.gpus else max(self.fits[fit].feature_shards, given.nodes)

    def layer(self, fit: str) -> int:
        """The layer that a fit reads."""
        return self.fits[fit].layer or self.activations.layers[0]
