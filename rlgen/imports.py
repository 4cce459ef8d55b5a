"""How a user's own `package.module:function` is found."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def working_directory_on_path() -> Iterator[None]:
    """While the block lasts, modules of the working directory are found, after installed ones."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
