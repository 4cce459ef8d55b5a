"""What each job of a study has to do, by its rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from rlgen.cluster.dag import Job
from rlgen.cluster.plan import causal, reading, training
from rlgen.cluster.plan.language import Language
from rlgen.cluster.plan.sizes import Asked, Sizes
from rlgen.cluster.plan.work import CPU, Machine, Work
from rlgen.data.miniature import vocabulary
from rlgen.errors import StudyError
from rlgen.posttrain.memory import Shape, shape_of
from rlgen.study import BASE, Study
from rlgen.study.sections import Edit, ExistingArm, PretrainedBase, TrainedArm
from rlgen.study.study import TEACHER

TOKENISED = 2e-6
"""Seconds a token of text takes to be read, tokenised and packed."""
PROBLEM = 2e-3
"""Seconds a problem takes to be read, filtered and compared with the evaluations."""

CHECKS, CHECKED = 40, 1000
"""Forward passes by which a model is checked when it is adopted, and tokens that they read."""


class Costs:
    """Of one study on one machine: `of` gives a job's work."""

    def __init__(self, study: Study, machine: Machine, share: float, configs: Mapping[str, Path] | None = None) -> None:
        """`share`: mean length of an answer, as a share of the longest. `configs`: config.json by a model's path."""
        self._study, self._machine, self._configs = study, machine, configs or {}
        self._sizes = Sizes(study, share)
        self._rules: dict[str, Callable[[Job, Machine], Work]] = {
            "pretrain": self._pretrain,
            "adopt": self._adopt,
            "problems": lambda job, on: Work(seconds=PROBLEM * self._sizes.problems),
            "teacher": self._teacher,
            "sft": self._arm,
            "grpo": self._arm,
            "perturb": lambda job, on: Work(read=2 * self._kept, written=self._kept),
            "evaluate": self._evaluate,
            "corpus": self._corpus,
            "dump": self._dump,
            "fit": self._fit,
            "diagnose": self._diagnose,
            "attribute": self._attribute,
            "track": self._track,
            "localise": self._localise,
            "intervene": self._intervene,
            "compare": self._compare,
        }

    def of(self, job: Job) -> Work:
        """A job's work; of a rule that is not known here, or hardly takes any, none."""
        known = self._rules.get(job.rule)
        return known(job, self.machine_of(job)) if known else Work()

    def machine_of(self, job: Job) -> Machine:
        """Where a job runs."""
        return self._machine if job.gpus else CPU

    def seconds(self, job: Job, work: Work) -> float:
        """How long a job takes by the model alone."""
        return self.machine_of(job).seconds(work, job.gpus or job.threads)

    def _shape(self, key: str, path: str) -> Shape:
        config = self._configs.get(path)
        found = Shape.of(json.loads(config.read_text())) if config else shape_of(path)
        if found is None:
            raise StudyError(f"{key}: the shape of {path} is not known here; give --model-config {path}=<config.json>")
        return found

    @cached_property
    def _base_shape(self) -> Shape:
        base = self._study.base
        if not isinstance(base, PretrainedBase):
            return self._shape("base.path", base.path)
        heads = {"num_attention_heads": base.heads, "num_hidden_layers": base.layers, "tie_word_embeddings": True}
        widths = {"hidden_size": base.hidden_size, "intermediate_size": base.intermediate_size}
        return Shape.of({**heads, **widths, "vocab_size": len(vocabulary())})

    @property
    def _kept(self) -> float:
        """Bytes of a model on disk, in the precision in which it is used."""
        return self._base(self._machine).weights

    def _base(self, on: Machine) -> Language:
        return Language(self._base_shape, on)

    @cached_property
    def _asked(self) -> dict[str, list[Asked]]:
        tasks = self._study.tasks
        groups = {"train_domain": tasks.train_domain, "transfer": tasks.transfer, "unseen": tasks.unseen}
        return {group: list(map(self._sizes.asked, found)) for group, found in groups.items()}

    @property
    def _row_length(self) -> int:
        return self._study.corpus.row_length

    # ------------------------------------------------------------------------------------ models and their answers

    def _pretrain(self, job: Job, on: Machine) -> Work:
        assert isinstance(self._study.base, PretrainedBase)
        return training.pretrain(self._study.base, self._base(on))

    def _adopt(self, job: Job, on: Machine) -> Work:
        """Reading the weights of a model and of its checkpoints twice, for their digest and to check them.

        Adapters are merged: the base is read and a whole model is written.
        """
        name, study = job.wildcards["model"], self._study
        if name == TEACHER and study.teacher:
            of = Language(self._shape(f"{TEACHER}.path", study.teacher.path), on)
        else:
            of = self._base(on)
        arm = study.existing(name)
        count = 1 + (len(arm.checkpoints) if isinstance(arm, ExistingArm) else 0)
        checked = of.read(CHECKED, CHECKED / 2, logits=CHECKED, passes=CHECKS)
        adapters = len(arm.adapters) if arm else 0
        merged = Work(read=2 * adapters * self._kept, written=adapters * self._kept)
        return (checked + Work(read=2 * of.weights)).times(count) + merged

    def _teacher(self, job: Job, on: Machine) -> Work:
        teacher = self._study.teacher
        assert teacher is not None
        of = Language(self._shape(f"{TEACHER}.path", teacher.path), on)
        return training.teach(of, self._sizes, job.gpus, teacher.batch_size, teacher.engine)

    def _arm(self, job: Job, on: Machine) -> Work:
        arm = self._study.arm(job.wildcards["arm"])
        assert isinstance(arm, TrainedArm)
        return training.post_train(arm, self._base(on), self._sizes, job.gpus)

    def _evaluate(self, job: Job, on: Machine) -> Work:
        asked = [self._sizes.asked(task) for task in self._study.tasks_of(job.wildcards["model"])]
        return training.evaluate(asked, self._base(on), self._study.evaluation)

    # ---------------------------------------------------------------------------------- activations and crosscoders

    def _corpus(self, job: Job, on: Machine) -> Work:
        tokens = self._study.corpus.tokens
        return Work(seconds=TOKENISED * tokens, written=9.0 * tokens)

    def _dump(self, job: Job, on: Machine) -> Work:
        settings, tokens = self._study.activations, float(self._study.corpus.tokens)
        if "@" in job.wildcards["model"] and self._study.tracking:
            tokens = min(tokens, self._study.tracking.tokens)
        else:
            tokens /= settings.parts
        return reading.dump(tokens, self._row_length, settings, self._base(on))

    def _stores(self, tokens: float, models: int, on: Machine) -> Work:
        return reading.activations(tokens, models, self._row_length, self._study.activations, self._base(on))

    def _fit(self, job: Job, on: Machine) -> Work:
        settings = self._study.fits[job.wildcards["crosscoder"]]
        tokens = settings.epochs * min(self._study.corpus.tokens, settings.tokens or self._study.corpus.tokens)
        stores = self._stores(tokens, len(settings.models), on)
        return reading.fit(settings, tokens, self._base_shape.width, job.gpus) + stores

    def _diagnose(self, job: Job, on: Machine) -> Work:
        settings = self._study.fits[job.wildcards["crosscoder"]]
        tokens = float(min(self._study.corpus.tokens, reading.MEASURED))
        return reading.diagnose(settings, tokens, self._base(on)) + self._stores(tokens, len(settings.models), on)

    def _attribute(self, job: Job, on: Machine) -> Work:
        fits, name = self._study.fits, job.wildcards["crosscoder"]
        again = [fits[other] for other in self._study.replicates[name]]
        return reading.attribute(fits[name], self._base_shape.width, again)

    def _track(self, job: Job, on: Machine) -> Work:
        settings, tracking = self._study.fits[job.wildcards["crosscoder"]], self._study.tracking
        assert tracking is not None
        arm = next(model for model in settings.models if model != BASE)
        models = 2 + len(self._study.earlier_checkpoints(arm))
        tokens = float(min(tracking.tokens, self._study.corpus.tokens))
        return reading.track(settings, tokens, models, self._base_shape.width) + self._stores(tokens, models, on)

    # ------------------------------------------------------------------------------------------- the causal tests

    def _localise(self, job: Job, on: Machine) -> Work:
        rule = self._study.localisation
        assert rule is not None
        fit = self._study.fits[job.wildcards["crosscoder"]]
        return causal.localise(self._asked["transfer"], rule, fit, self._base(on))

    @cached_property
    def _measured(self) -> list[Asked]:
        rule, settings = self._study.localisation, self._study.interventions
        assert rule is not None
        groups: dict[str, list[Asked]] = {str(group): self._asked[group] for group in settings.groups}
        return causal.measuring(groups, rule, settings)

    def _intervene(self, job: Job, on: Machine) -> Work:
        settings = self._study.interventions
        edit: Edit = getattr(settings, job.wildcards["edit"])
        return causal.intervene(self._measured, edit, settings, self._study.evaluation, self._base(on))

    def _compare(self, job: Job, on: Machine) -> Work:
        rule = self._study.localisation
        assert rule is not None
        selected = causal.selecting(self._asked["transfer"], rule)
        fit = self._study.fits[rule.crosscoder]
        return causal.compare(selected, self._measured, fit, self._study.evaluation, self._base(on))
