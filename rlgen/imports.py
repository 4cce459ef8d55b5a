"""Import functions of the user's own, which a study names as `package.module:function`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from rlgen.errors import StudyError


def load_function(name: str, what: str) -> Callable[..., Any]:
    """Import the function that `package.module:function` names.

    Modules of the working directory are found too, after installed ones.

    Args:
        name: The function's name in the study.
        what: What the study needs it for, to begin a message with: `reward`, or a key.

    Returns:
        The function, or whatever else can be called.

    Raises:
        StudyError: The name has another form, the module cannot be imported or raises an error, or it has no such
            function.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function) or module.startswith("."):
        raise StudyError(f"{what}: `{name}` is not of the form package.module:function")
    try:
        with working_directory_on_path():
            imported = import_module(module)
    except ImportError as error:
        raise StudyError(
            f"{what}: `{name}` cannot be imported ({error}); start from the folder that holds it, or install it"
        ) from None
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise StudyError(
            f"{what}: `{name}` cannot be imported: `{module}` raises {type(error).__name__}: {error}"
        ) from None
    found = getattr(imported, function, None)
    if found is None:
        raise StudyError(f"{what}: `{name}` cannot be imported: module `{module}` has no `{function}`")
    if not callable(found):
        raise StudyError(f"{what}: `{name}` is not a function")
    loaded: Callable[..., Any] = found
    return loaded


@contextlib.contextmanager
def working_directory_on_path() -> Iterator[None]:
    """While the block lasts, modules of the working directory are found, after installed ones."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
