"""`rlgen submit`: a stage's command as a job of its own, over several nodes or beyond a time limit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    from rlgen.errors import StudyError

    if "--out" not in words[:-1]:
        raise StudyError("submit: the command has no --out; write it after `--`, as its rule does")
    told = dict(pair.partition("=")[::2] for pair in site or [])
    request = Request(nodes, tasks_per_node, threads, gpus, mem_mb, minutes, told)
    run(words, Path(words[words.index("--out") + 1]), request)
