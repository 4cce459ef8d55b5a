"""`rlgen plan`, `status` and `submit`: a study before it is run, while it runs, and a job of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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


def status(
    configfile: Annotated[Path, typer.Option(help="The study's file.")] = Path("config.yaml"),
    config: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting in the place of the file's.")
    ] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Print only the artifacts that other code made: for `snakemake --forcerun`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Every artifact, as JSON.")] = False,
) -> None:
    """What of a study is done, at work, failed, interrupted, to be made again, or made by other code than today's."""
    import json

    from rlgen.cluster import table
    from rlgen.cluster.status import status as status_of
    from rlgen.study import load_study

    study = load_study(configfile, _settings(config or []))
    found = status_of(study)
    if stale:
        lines = [str(standing.artifact.path) for standing in found if standing.state == "stale"]
    elif as_json:
        lines = [json.dumps({"study": study.study, **table.as_json(found)}, indent=1)]
    else:
        lines = list(table.as_text(found))
    for line in lines:
        typer.echo(line)


def _settings(given: list[str]) -> dict[str, Any]:
    """Return settings given as `key=value`, read as Snakemake's `--config` reads them."""
    if not given:
        return {}
    from snakemake.cli import parse_config

    for text in given:
        if not re.fullmatch(r"[a-zA-Z_]\w+=.*", text, flags=re.DOTALL):
            raise StudyError(f"--config {text}: not KEY=VALUE; give for instance `--config seed=1`")
    found: dict[str, Any] = parse_config(given)
    return found


def submit(
    words: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="The command, after `--`, with its --out.")
    ],
    nodes: Annotated[int, typer.Option(min=1)] = 1,
    tasks_per_node: Annotated[int, typer.Option(min=1, help="Processes a node.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPUs a node.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs a node.")] = 0,
    mem_mb: Annotated[int, typer.Option(min=1, help="Memory a node, in MB.")] = 2000,
    minutes: Annotated[int, typer.Option(min=1, help="Time limit; a job that meets it is requeued and goes on.")] = 60,
    site: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE: partition, account, qos, constraint, gpu_model.")
    ] = None,
) -> None:
    """Run another command as a job by submitit (on SLURM, or here without it), follow its log, requeue it."""
    from rlgen.cluster.submit import Request, run

    if "--out" not in words[:-1]:
        raise StudyError("submit: the command has no --out; write it after `--`, as its rule does")
    told = dict(pair.partition("=")[::2] for pair in site or [])
    request = Request(nodes, tasks_per_node, threads, gpus, mem_mb, minutes, told)
    run(words, Path(words[words.index("--out") + 1]), request)
