"""`rlgen config` and `rlgen store`: what a person asks of a study file and of an activation store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

config_app = typer.Typer(
    no_args_is_help=True, help="The study file: its schema, whether a file is right, what it takes."
)
store_app = typer.Typer(no_args_is_help=True, help="Activation stores: what is in one, and whether it is whole.")


@config_app.command("check")
def config_check(study: Path) -> None:
    """Check a study file: name every wrong key, what is wrong with it and the remedy.

    Settings are checked, and that files, models and functions are there. Data and models are read only when they are
    used. Settings that are allowed but weak are printed as notes.
    """
    from rlgen.study import load_study, notes_on
    from rlgen.study.checks import looked_at

    found = load_study(study)
    arms, crosscoders = _count(len(found.arms), "arm"), _count(len(found.crosscoders), "crosscoder")
    typer.echo(f"{study}: the settings of study `{found.study}` are right: {arms}, {crosscoders}")
    files = _count(looked_at(found), "file or folder", "files and folders")
    typer.echo(f"looked at {files}; data and models are checked when they are read")
    for note in notes_on(found):
        typer.echo(f"note: {note}")


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


@config_app.command("explain")
def config_explain(
    key: Annotated[str, typer.Argument(help="Path of a key, such as arms.lr; the whole study if not given.")] = "",
) -> None:
    """Print a key's type, default and meaning, and those of the keys in it, as plain text."""
    from rlgen.study.explain import explain

    for line in explain(key):
        typer.echo(line)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a study file."""
    import json

    from rlgen.study.stages import schema

    typer.echo(json.dumps(schema(), indent=1))


@config_app.command("memory")
def config_memory(
    study: Path,
    model_config: Annotated[Path | None, typer.Option(help="The base's config.json, if it is not here.")] = None,
) -> None:
    """What training each arm takes on a GPU, by kind of GPU: an estimate that needs neither weights nor network."""
    from rlgen.posttrain.memory import memory_of

    for line in memory_of(study, model_config):
        typer.echo(line)


@store_app.command("info")
def store_info(store: Path) -> None:
    """A store's shape, size and provenance: of a part, or of a folder of parts."""
    from rlgen.activations.inspect import info

    typer.echo(info(store))


@store_app.command("verify")
def store_verify(store: Path) -> None:
    """Read every byte of a store and name what is damaged: part, shard and token range. Exits with 1 if anything is."""
    from rlgen.activations.inspect import parts_of, verify

    faults = 0
    for fault in verify(store):
        faults += 1
        typer.echo(fault)
    typer.echo(f"{store}: {len(parts_of(store))} parts read, {faults} faults")
    if faults:
        raise typer.Exit(1)
