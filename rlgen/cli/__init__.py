"""The command `rlgen`."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from rlgen.cli.answers import answers
from rlgen.cli.cluster import PASSED_ON, plan, status, submit
from rlgen.cli.inspection import config_app, store_app
from rlgen.cli.model import model_app
from rlgen.cli.stages import app
from rlgen.errors import StudyError
from rlgen.masking import Masking, crash, masked
from rlgen.stage import AlreadyMade

app.add_typer(config_app, name="config")
app.add_typer(store_app, name="store")
app.add_typer(model_app, name="model")
app.command()(answers)
app.command(context_settings=PASSED_ON)(plan)
app.command()(status)
app.command()(submit)


@contextmanager
def readable_errors() -> Iterator[None]:
    """A StudyError is printed without a traceback; what is made already is made; anything else crashes loudly."""
    try:
        yield
    except AlreadyMade:
        pass
    except StudyError as error:
        typer.echo(masked(f"error: {error}"), err=True)
        raise SystemExit(2) from None


def main() -> None:
    """Entry point of the `rlgen` command."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Masking("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    sys.excepthook = crash
    try:
        with readable_errors():
            app()
    except SystemExit as end:
        if end.code:
            raise
    _leave()


def _leave() -> NoReturn:
    """End at once: taking an interpreter full of libraries down lasts seconds, and Snakemake, if it is stopped in them,
    takes the job for failed and deletes what has just been finished. What was registered for the end is still run."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
