"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SettingsJson = Annotated[
    str, typer.Option("--settings", help="The stage's settings as JSON; `snakemake -p` prints it.")
]
Out = Annotated[Path, typer.Option("--out", help="The artifact to make.")]
In = Annotated[Path, typer.Option(exists=True)]
MaybeIn = Annotated[Path | None, typer.Option(exists=True)]
Ins = Annotated[list[Path], typer.Option(exists=True)]
Processes = Annotated[
    int, typer.Option(min=1, help="Of this machine, that share the work; on GPUs one each. Under `torchrun`: its own.")
]
Services = Annotated[
    list[str] | None, typer.Option(help="A service that is told the curves while it runs: tensorboard, wandb.")
]
MonitorFolder = Annotated[Path, typer.Option(help="Where such services keep their files.")]
MaybeIns = Annotated[list[Path] | None, typer.Option(exists=True)]
Apart = Annotated[
    bool, typer.Option("--separate-documents", help="Refuse a model that cannot keep a row's documents apart.")
]
