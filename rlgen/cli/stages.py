"""`rlgen <stage>`: what each rule runs, and what a person can run by hand. Stages are imported when they run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rlgen.cli.options import Apart, In, Ins, MaybeIn, MaybeIns, MonitorFolder, Out, Processes, Services, SettingsJson

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Why reinforcement learning generalises where supervised fine-tuning forgets.",
)


def _share(processes: int) -> None:
    """Go on as so many processes, each with this very command; it is one of them already, or alone, if that is 1."""
    from rlgen.launch import torchrun, world_size

    if processes > 1 and world_size() == 1:
        torchrun(processes, sys.argv[1:])


@app.command()
def problems(settings: SettingsJson, out: Out, task: MaybeIns = None, base: MaybeIn = None) -> None:
    """Training problems, none of them an item of a `--task`; tokens are counted by `--base`'s tokenizer."""
    from rlgen.data.problems import make_problems
    from rlgen.study.stages import ProblemsSettings, parse_settings

    make_problems(parse_settings(ProblemsSettings, settings), out=out, tasks=task or [], base=base)


@app.command()
def task(settings: SettingsJson, out: Out) -> None:
    """An evaluation task: its items and its lm-evaluation-harness file."""
    from rlgen.data.tasks import make_task
    from rlgen.study.stages import TaskSettings, parse_settings

    make_task(parse_settings(TaskSettings, settings), out=out)


@app.command()
def corpus(settings: SettingsJson, base: In, out: Out, problems: MaybeIn = None) -> None:
    """The token ids on which every model's activations are taken."""
    from rlgen.data.corpus import make_corpus
    from rlgen.study.stages import CorpusSettings, parse_settings

    make_corpus(parse_settings(CorpusSettings, settings), base=base, problems=problems, out=out)


@app.command()
def pretrain(settings: SettingsJson, out: Out) -> None:
    """The miniature base, from scratch."""
    from rlgen.posttrain.pretrain import pretrain
    from rlgen.study.stages import PretrainSettings, parse_settings

    pretrain(parse_settings(PretrainSettings, settings), out=out)


@app.command()
def adopt(settings: SettingsJson, out: Out, base: MaybeIn = None, separate_documents: Apart = False) -> None:
    """Check an existing model and take it into the study: by reference, or, a PEFT adapter, merged into the base."""
    from rlgen.posttrain.adopt import adopt
    from rlgen.study.stages import AdoptSettings, parse_settings

    adopt(parse_settings(AdoptSettings, settings), out=out, base=base, separate_documents=separate_documents)


@app.command()
def sft(
    settings: SettingsJson,
    base: In,
    problems: In,
    out: Out,
    processes: Processes = 1,
    monitor: Services = None,
    monitor_folder: MonitorFolder = Path("monitors"),
) -> None:
    """An arm by supervised fine-tuning."""
    _share(processes)
    from rlgen.posttrain.monitors import Monitors
    from rlgen.posttrain.sft import sft
    from rlgen.study.stages import SftSettings, parse_settings

    monitors = Monitors(monitor or [], monitor_folder)
    sft(parse_settings(SftSettings, settings), base=base, problems=problems, out=out, monitors=monitors)


@app.command()
def grpo(
    settings: SettingsJson,
    base: In,
    problems: In,
    out: Out,
    processes: Processes = 1,
    monitor: Services = None,
    monitor_folder: MonitorFolder = Path("monitors"),
) -> None:
    """An arm by reinforcement learning."""
    _share(processes)
    from rlgen.posttrain.grpo import grpo
    from rlgen.posttrain.monitors import Monitors
    from rlgen.study.stages import GrpoSettings, parse_settings

    monitors = Monitors(monitor or [], monitor_folder)
    grpo(parse_settings(GrpoSettings, settings), base=base, problems=problems, out=out, monitors=monitors)


@app.command()
def teacher(settings: SettingsJson, model: In, problems: In, out: Out, base: MaybeIn = None) -> None:
    """Solutions by a stronger model; tokens of `problems.max_solution_tokens` are counted by `--base`'s tokenizer."""
    from rlgen.posttrain.teacher import teach
    from rlgen.study.stages import TeacherSettings, parse_settings

    teach(parse_settings(TeacherSettings, settings), model=model, problems=problems, out=out, base=base)


@app.command()
def perturb(settings: SettingsJson, base: In, like: In, out: Out) -> None:
    """The noise null: base with weight noise as large as another model's change."""
    from rlgen.posttrain.perturb import perturb
    from rlgen.study.stages import PerturbSettings, parse_settings

    perturb(parse_settings(PerturbSettings, settings), base=base, like=like, out=out)


@app.command()
def evaluate(settings: SettingsJson, model: In, task: Ins, out: Out) -> None:
    """A model's answers to every task, item by item."""
    from rlgen.evaluation.evaluate import evaluate
    from rlgen.study.stages import EvaluateSettings, parse_settings

    evaluate(parse_settings(EvaluateSettings, settings), model=model, tasks=task, out=out)


@app.command()
def dump(settings: SettingsJson, model: In, corpus: In, out: Out) -> None:
    """One part of a model's activation store."""
    from rlgen.activations.dump import dump
    from rlgen.study.stages import DumpSettings, parse_settings

    dump(parse_settings(DumpSettings, settings), model=model, corpus=corpus, out=out)


@app.command()
def fit(settings: SettingsJson, store: Ins, out: Out, processes: Processes = 1) -> None:
    """A crosscoder over several models' stores (`--store` for every part of every model)."""
    _share(processes)
    from rlgen.crosscoder.train import fit
    from rlgen.study.stages import FitSettings, parse_settings

    fit(parse_settings(FitSettings, settings), stores=store, out=out)


@app.command()
def diagnose(settings: SettingsJson, crosscoder: In, model: Ins, store: Ins, corpus: In, out: Out) -> None:
    """What a crosscoder explains: FVE, delta-FVE, L0, dead features, recovered cross-entropy."""
    from rlgen.crosscoder.diagnostics import diagnose
    from rlgen.study.stages import FitSettings, parse_settings

    parsed = parse_settings(FitSettings, settings)
    diagnose(parsed, crosscoder=crosscoder, models=model, stores=store, corpus=corpus, out=out)


@app.command()
def attribute(
    settings: SettingsJson,
    crosscoder: In,
    diagnostics: In,
    out: Out,
    replicate: MaybeIns = None,
    replicate_diagnostics: MaybeIns = None,
) -> None:
    """NRN and MAS of every feature; with fits of other seeds (`--replicate`), how stable features are."""
    from rlgen.features.attribution import attribute
    from rlgen.study.stages import AttributeSettings, parse_settings

    parsed = parse_settings(AttributeSettings, settings)
    replicates = list(zip(replicate or [], replicate_diagnostics or [], strict=True))
    attribute(parsed, crosscoder=crosscoder, diagnostics=diagnostics, out=out, replicates=replicates)


@app.command()
def track(settings: SettingsJson, crosscoder: In, store: Ins, out: Out) -> None:
    """A pairwise crosscoder's features over its arm's checkpoints."""
    from rlgen.features.tracking import track
    from rlgen.study.stages import TrackSettings, parse_settings

    track(parse_settings(TrackSettings, settings), crosscoder=crosscoder, stores=store, out=out)


@app.command()
def localise(
    settings: SettingsJson,
    crosscoder: In,
    base: In,
    arm: In,
    base_evaluation: In,
    arm_evaluation: In,
    task: Ins,
    diagnostics: In,
    out: Out,
) -> None:
    """The features behind "base wrong, arm right"."""
    from rlgen.features.localisation import localise
    from rlgen.study.stages import LocaliseSettings, parse_settings

    localise(
        parse_settings(LocaliseSettings, settings),
        crosscoder=crosscoder,
        models={"base": base, "arm": arm},
        evaluations={"base": base_evaluation, "arm": arm_evaluation},
        tasks=task,
        diagnostics=diagnostics,
        out=out,
    )


@app.command()
def intervene(
    edit: Annotated[
        str, typer.Argument(help="In base: amplify, transplant, scale; in the arm: ablate, mean_ablate, revert")
    ],
    settings: SettingsJson,
    crosscoder: Ins,
    localisation: Ins,
    diagnostics: Ins,
    base: In,
    arm: In,
    corpus: In,
    task: Ins,
    out: Out,
) -> None:
    """Edit a live model at the localised features, with every control (`--crosscoder` for every layer)."""
    from rlgen.interventions.evaluate import intervene
    from rlgen.study.stages import InterveneSettings, parse_settings

    intervene(
        edit,
        parse_settings(InterveneSettings, settings),
        crosscoder=crosscoder,
        localisation=localisation,
        diagnostics=diagnostics,
        models={"base": base, "arm": arm},
        corpus=corpus,
        tasks=task,
        out=out,
    )


@app.command()
def compare(
    edit: Annotated[str, typer.Argument(help="As in `intervene`")],
    settings: SettingsJson,
    crosscoder: In,
    localisation: In,
    diagnostics: In,
    base: In,
    arm: In,
    task: Ins,
    out: Out,
) -> None:
    """All scores of localisation beside an oracle that tries every single feature."""
    from rlgen.interventions.compare import compare
    from rlgen.study.stages import CompareSettings, parse_settings

    compare(
        edit,
        parse_settings(CompareSettings, settings),
        crosscoder=crosscoder,
        localisation=localisation,
        diagnostics=diagnostics,
        models={"base": base, "arm": arm},
        tasks=task,
        out=out,
    )


@app.command()
def summary(settings: SettingsJson, root: In, out: Out) -> None:
    """Every number of the report, by name."""
    from rlgen.report.summary import summarise
    from rlgen.study.stages import SummarySettings, parse_settings

    summarise(parse_settings(SummarySettings, settings), root=root, out=out)


@app.command()
def report(settings: SettingsJson, summary: In, root: In, out: Out) -> None:
    """The page: one HTML file that opens from disk."""
    from rlgen.report.page import make_report
    from rlgen.study.stages import ReportSettings, parse_settings

    make_report(parse_settings(ReportSettings, settings), summary=summary, root=root, out=out)
