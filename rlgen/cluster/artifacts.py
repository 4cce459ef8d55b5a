"""Every artifact of a study: the rule that makes it, of which settings, and of what.

The same as the DAG that the rule files describe (a test holds them side by side), in a hundredth of the time: without
Snakemake, and without a look at the disk but for the user's own files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlgen.paths import Paths
from rlgen.study import BASE, NOISE, TEACHER, Study, stages
from rlgen.study.rules import Rules


@dataclass(frozen=True)
class Artifact:
    """One job's output."""

    rule: str
    name: str
    """What tells it from the rule's others; empty if there are none."""
    path: Path
    settings: stages.StageSettings
    inputs: tuple[str, ...]
    """Artifacts and files of the user's that Snakemake looks at."""
    log: Path


def artifacts(study: Study) -> list[Artifact]:
    """All artifacts that the report needs, each after those that it is made from."""
    return list(_Artifacts(study))


class _Artifacts:
    """One method a rule file, as in `workflow/rules`."""

    def __init__(self, study: Study) -> None:
        self.study, self.paths, self.rules = study, Paths(study), Rules(study)
        self._noise = [NOISE] if study.nulls else []
        self._parts = {
            model: [self.paths.activations(model, part) for part in range(parts)]
            for model, parts in stages.SummarySettings.of(study).stores.items()
        }

    def __iter__(self) -> Iterator[Artifact]:
        yield from self._base()
        yield from self._data()
        yield from self._arms()
        yield from self._evaluations()
        yield from self._stores()
        yield from self._crosscoders()
        yield from self._attribution()
        yield from self._tracking()
        yield from self._causal()
        yield from self._report()

    def _made(
        self,
        rule: str,
        path: Path,
        settings: stages.StageSettings,
        inputs: Sequence[str | Path] = (),
        names: Sequence[str] = (),
    ) -> Artifact:
        return Artifact(rule, " ".join(names), path, settings, tuple(map(str, inputs)), self.paths.log(rule, *names))

    def _base(self) -> Iterator[Artifact]:
        if self.rules.pretrained:
            yield self._made("pretrain", self.paths.model(BASE), stages.PretrainSettings.of(self.study))
        else:
            yield self._adopted(BASE)
        if self.study.teacher:
            yield self._adopted(TEACHER)

    def _adopted(self, model: str) -> Artifact:
        base = [] if model in (BASE, TEACHER) else [self.paths.model(BASE)]
        settings = stages.AdoptSettings.of(self.study, model)
        return self._made("adopt", self.paths.model(model), settings, [*self.rules.model_files(model), *base], [model])

    def _data(self) -> Iterator[Artifact]:
        study, paths = self.study, self.paths
        for task in study.task_names:
            settings = stages.TaskSettings.of(study, task)
            yield self._made("task", paths.task(task), settings, self.rules.task_files(task), [task])
        base = [paths.model(BASE)]
        if study.problems.sources:
            of_problems = stages.ProblemsSettings.of(study)
            files = [*self.rules.problem_files, *of_problems.verifier_files]
            inputs: list[str | Path] = [*files, *map(paths.task, study.decontaminated)]
            inputs += base if of_problems.problems.limited else []
            yield self._made("problems", paths.problems, of_problems, inputs)
        if study.teacher:
            inputs = [paths.model(TEACHER), paths.problems, *(base if study.problems.max_solution_tokens else [])]
            lesson = stages.TeacherSettings.of(study)
            yield self._made("teacher", paths.solutions, lesson, [*lesson.verifier_files, *inputs])
        inputs = [*self.rules.corpus_files, *base, *([paths.training] if study.problems.sources else [])]
        yield self._made("corpus", paths.corpus, stages.CorpusSettings.of(study), inputs)

    def _arms(self) -> Iterator[Artifact]:
        study, paths = self.study, self.paths
        made = [paths.model(BASE), paths.training]
        for arm in study.arms:
            if arm.method == "sft":
                settings: stages.StageSettings = stages.SftSettings.of(study, arm.name)
                yield self._made("sft", paths.model(arm.name), settings, made, [arm.name])
            elif arm.method == "grpo":
                settings, files = stages.GrpoSettings.of(study, arm.name), self.rules.reward_files(arm.name)
                yield self._made(
                    "grpo", paths.model(arm.name), settings, [*files, *settings.verifier_files, *made], [arm.name]
                )
            else:
                yield self._adopted(arm.name)
        if study.nulls:
            inputs = [paths.model(BASE), paths.model(study.nulls.noise_like)]
            yield self._made("perturb", paths.model(NOISE), stages.PerturbSettings.of(study), inputs)

    def _evaluations(self) -> Iterator[Artifact]:
        for model in [*self.study.models, *(self._noise if self.study.localisation else [])]:
            tasks = [self.paths.task(task.name) for task in self.study.tasks_of(model)]
            settings = stages.EvaluateSettings.of(self.study, model)
            inputs: list[str | Path] = [*settings.verifier_files, self.paths.model(model), *tasks]
            yield self._made("evaluate", self.paths.evaluation(model), settings, inputs, [model])

    def _stores(self) -> Iterator[Artifact]:
        for model, parts in self._parts.items():
            inputs = [self.paths.model(model.partition("@")[0]), self.paths.corpus]
            for part, path in enumerate(parts):
                settings = stages.DumpSettings.of(self.study, model, part)
                yield self._made("dump", path, settings, inputs, [model, path.stem])

    def _crosscoders(self) -> Iterator[Artifact]:
        paths = self.paths
        for fit, crosscoder in self.study.fits.items():
            settings = stages.FitSettings.of(self.study, fit)
            stores = [part for model in crosscoder.models for part in self._parts[model]]
            yield self._made("fit", paths.crosscoder(fit), settings, stores, [fit])
            inputs = [paths.crosscoder(fit), *map(paths.model, crosscoder.models), paths.corpus, *stores]
            yield self._made("diagnose", paths.diagnostics(fit), settings, inputs, [fit])

    def _attribution(self) -> Iterator[Artifact]:
        settings = stages.AttributeSettings.of(self.study)
        for fit in self.study.fits:
            compared = [fit, *self.study.replicates[fit]]
            inputs = [*map(self.paths.crosscoder, compared), *map(self.paths.diagnostics, compared)]
            yield self._made("attribute", self.paths.attribution(fit), settings, inputs, [fit])

    def _tracking(self) -> Iterator[Artifact]:
        for name in self.study.tracking.crosscoders if self.study.tracking else []:
            settings = stages.TrackSettings.of(self.study, name)
            models = [*self.study.crosscoders[name].models, *self.study.earlier_checkpoints(settings.arm)]
            inputs = [self.paths.crosscoder(name), *(part for model in models for part in self._parts[model])]
            yield self._made("track", self.paths.tracking(name), settings, inputs, [name])

    def _causal(self) -> Iterator[Artifact]:
        study, paths = self.study, self.paths
        measured = [paths.task(task) for tasks in study.measured_groups.values() for task in tasks]
        modes = list(map(Path, self.rules.mode_files))
        for fit, arm in study.localised.items():
            inputs = [paths.crosscoder(fit), paths.diagnostics(fit), paths.model(BASE), paths.model(arm)]
            inputs += [paths.evaluation(BASE), paths.evaluation(arm), *map(paths.task, study.task_groups["transfer"])]
            yield self._made("localise", paths.localisation(fit), stages.LocaliseSettings.of(study, fit), inputs, [fit])
        for fit, arm in study.localised.items():
            layers = study.edited_with(fit)
            inputs = [*map(paths.crosscoder, layers), *map(paths.diagnostics, layers), *map(paths.localisation, layers)]
            inputs += [paths.model(BASE), paths.model(arm), paths.corpus, *measured, *modes]
            for edit in study.edits_of(fit):
                settings = stages.InterveneSettings.of(study, edit)
                files: list[str | Path] = [*settings.verifier_files, *inputs]
                yield self._made("intervene", paths.intervention(fit, edit), settings, files, [fit, edit])
        if study.localisation and study.localisation.oracle:
            fit, arm = study.localisation.crosscoder, study.localisation.arm
            inputs = [paths.crosscoder(fit), paths.diagnostics(fit), paths.localisation(fit)]
            inputs += [paths.model(BASE), paths.model(arm), *measured, *modes]
            compared = stages.CompareSettings.of_main(study)
            inputs += map(Path, compared.verifier_files)
            yield self._made("compare", paths.comparison(fit), compared, inputs)

    def _report(self) -> Iterator[Artifact]:
        study, paths = self.study, self.paths
        inputs = [*map(paths.evaluation, study.models), *map(paths.attribution, study.fits)]
        inputs += map(paths.tracking, study.tracking.crosscoders if study.tracking else [])
        inputs += [paths.intervention(fit, edit) for fit in study.localised for edit in study.edits_of(fit)]
        if study.localisation and study.localisation.oracle:
            inputs.append(paths.comparison(study.localisation.crosscoder))
        yield self._made("summary", paths.summary, stages.SummarySettings.of(study), inputs)
        yield self._made("report", paths.report, stages.ReportSettings.of(study), [paths.summary])
