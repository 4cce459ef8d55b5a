"""Which artifacts go together: their formats, and the libraries by which what is compared was made."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rlgen.errors import StudyError

MANIFEST = "manifest.json"

FORMATS = {
    **dict.fromkeys(("problems", "teacher", "task", "corpus"), 1),
    **dict.fromkeys(("pretrain", "adopt", "sft", "grpo", "perturb", "evaluate", "dump"), 1),
    **dict.fromkeys(("fit", "diagnose", "attribute", "track", "localise"), 1),
    **dict.fromkeys(("intervene", "compare", "report"), 1),
}
"""Format of what each stage makes: raised when what later stages read of it changes, names, columns or meaning."""

_COMPARED = {"dump": ("torch", "transformers"), "evaluate": ("lm_eval", "math-verify", "transformers")}
"""Libraries whose releases would pass for differences between models, by the stage whose artifacts are compared."""


def check_format(key: str, path: Path, manifest: Mapping[str, Any]) -> None:
    """Raises StudyError if an input is of a format that this version does not read."""
    maker = manifest.get("stage")
    wanted, found = FORMATS.get(str(maker)), manifest.get("format", 1)
    if wanted is not None and found != wanted:
        version = manifest.get("versions", {}).get("rlgen", "of unknown version")
        raise StudyError(
            f"input `{key}`: {path} is of format {found}, made by rlgen {version}; this version reads format {wanted} "
            f"of what `{maker}` makes. Make it again: snakemake --forcerun {path}"
        )


def check_mixture(artifacts: Iterable[Path]) -> None:
    """Raises StudyError if artifacts that are compared were made by different releases of a library.

    Stores of activations are, and evaluations. What is to be made again is what another release made than the one here.
    """
    by_stage: dict[str, dict[Path, dict[str, str]]] = {}
    for path in dict.fromkeys(artifacts):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            manifest = json.loads((path / MANIFEST).read_text())
            by_stage.setdefault(manifest.get("stage", ""), {})[path] = manifest.get("versions", {})
    for maker, packages in _COMPARED.items():
        for package in packages:
            made_by = {path: of[package] for path, of in by_stage.get(maker, {}).items() if package in of}
            first = {release(version): (version, path) for path, version in reversed(made_by.items())}
            if len(first) > 1:
                told = ", ".join(f"{package} {version} made {path}" for version, path in first.values())
                again = [str(path) for path, version in made_by.items() if is_foreign(package, version)]
                raise StudyError(
                    f"made by different versions, whose differences would pass for differences between models: {told}. "
                    f"Make those again that are not of the version here: snakemake --forcerun {' '.join(again)}"
                )


def foreign(manifest: Mapping[str, Any]) -> str | None:
    """Of an artifact that is compared, the first library of another release than the one here, with its version."""
    found = manifest.get("versions", {})
    packages = _COMPARED.get(str(manifest.get("stage")), ())
    return next((f"{p} {found[p]}" for p in packages if p in found and is_foreign(p, found[p])), None)


def is_foreign(package: str, version: str) -> bool:
    """Whether a version is of another release than the installed one."""
    try:
        return release(metadata.version(package)) != release(version)
    except metadata.PackageNotFoundError:
        return False


def release(version: str) -> str:
    """The part of a version that promises compatibility: the major number, below 1 the minor, too."""
    numbers = version.split("+")[0].split(".")
    return ".".join(numbers[:2] if numbers[0] == "0" else numbers[:1])
