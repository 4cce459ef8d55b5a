"""`rlgen model`: what a person asks of a model before it is trusted."""

from __future__ import annotations

from typing import Annotated

import typer

model_app = typer.Typer(no_args_is_help=True, help="Models: whether one gives right answers.")


@model_app.callback()
def model() -> None:
    """Ask something of a model."""


@model_app.command("check")
def model_check(
    folder: Annotated[str, typer.Argument(help="In Hugging Face format, a study's model, or a hub id.")],
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read weights other than safetensors, which can run any code.")
    ] = False,
    separate_documents: Annotated[
        bool,
        typer.Option(help="As the study's corpus.separate_documents: whether a model must keep documents apart."),
    ] = True,
) -> None:
    """Load a model as the stages do and check it, a line for each check. Exits with 1 if there is a fault."""
    from rlgen.masking import masked
    from rlgen.model_checks import check_model, named_model

    where = named_model(folder, revision, trust_remote_code, allow_pickle)
    checks = faults = 0
    for found in check_model(where, separate_documents):
        checks += 1
        faults += found.fault is not None and not found.note
        word = "ok" if found.fault is None else "note" if found.note else "fault"
        typer.echo(masked(f"{word:<6} {found.name}{f': {found.fault}' if found.fault else ''}"))
    typer.echo(f"{folder}: {checks} checks, {faults} faults")
    if faults:
        raise typer.Exit(1)
