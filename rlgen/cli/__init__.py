"""The command `rlgen`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from rlgen.cli.inspection import config_app, store_app
from rlgen.cli.stages import app
from rlgen.errors import StudyError
from rlgen.masking import Masking, crash, masked
from rlgen.stage import AlreadyMade

app.add_typer(config_app, name="config")
app.add_typer(store_app, name="store")


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
    with readable_errors():
        app()
