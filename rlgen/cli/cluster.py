"""`rlgen plan`: what a person asks of a study before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlgen.errors import StudyError

if TYPE_CHECKING:
    from rlgen.cluster.dag import Dag


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of a command that hands further options on to Snakemake."""


def plan(
    context: typer.Context,
    configfile: Annotated[Path | None, typer.Option(help="The study; config.yaml if not given.")] = None,
    profile: Annotated[str, typer.Option(help="Of Snakemake: it says how many jobs run at a time.")] = "profiles/local",
    gpu: Annotated[str, typer.Option(help="The kind of GPU: RTX 4090, A100-40GB, A100-80GB, H100, H200.")] = "H100",
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs that you will get at a time; any number if not given.")
    ] = None,
    like: Annotated[
        list[Path] | None, typer.Option(help="A study that has been run here: what its jobs took is believed.")
    ] = None,
    answers: Annotated[
        float, typer.Option(min=0.01, max=1, help="Mean length of answers, as a share of the longest.")
    ] = 0.3,
    price: Annotated[float | None, typer.Option(min=0, help="Of a GPU-hour.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Minutes that a job waits in a scheduler's queue.")] = 0.0,
    model_config: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=FILE", help="The config.json of a model that is not here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    picture: Annotated[Path | None, typer.Option(help="An SVG of the DAG, coloured by cost.")] = None,
) -> None:
    """What a study will cost: jobs and why they run, GPU-hours, wall time, disk; further options are Snakemake's own.

    An estimate by a written cost model, corrected by what jobs took that have been run. Nothing is run or fetched.
    """
    import json
    from dataclasses import replace

    from rlgen.cluster.dag import read_dag
    from rlgen.cluster.plan.estimate import Plan
    from rlgen.cluster.plan.picture import draw
    from rlgen.cluster.plan.text import lines
    from rlgen.cluster.plan.work import machine_of

    def dag_of(study: Path | None, arguments: list[str]) -> Dag:
        return read_dag(["--profile", profile, *(["--configfile", str(study)] if study else []), *arguments])

    configs = dict(map(_config, model_config or []))
    dag = dag_of(configfile, context.args)
    found = Plan(
        replace(dag, gpus=gpus or dag.gpus),
        machine_of(gpu),
        share=answers,
        like=[dag_of(study, []) for study in like or []],
        configs=configs,
        wait=60 * wait,
    )
    typer.echo(json.dumps(found.as_json(price), indent=1) if as_json else "\n".join(lines(found, price)))
    if picture:
        picture.write_text(draw(found))


def _config(text: str) -> tuple[str, Path]:
    model, _, file = text.partition("=")
    if not Path(file).is_file():
        raise StudyError(f"--model-config: given '{text}'; give MODEL=FILE with a config.json that is here")
    return model, Path(file)
