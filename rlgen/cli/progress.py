"""`rlgen status`: how far a study is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


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
    """Settings given as `key=value`, the values read as YAML. Raises StudyError if one has no key."""
    import yaml

    from rlgen.errors import StudyError

    for text in given:
        if "=" not in text:
            raise StudyError(f"--config {text}: not KEY=VALUE; give for instance `--config seed=1`")
    return {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in given)}
