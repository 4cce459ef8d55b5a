"""A stage's own source, known by a digest: what was made by other code can be told.

It is what the stage's command (`rlgen/cli/stages.py`) reaches by name: functions, classes and constants of rlgen, found
by reading, not by importing. Comments, docstrings and layout do not count, nor does what every stage stands on
(settings, paths, the command line): that decides where and when something is made, and a change in it would make all
look old. What is named by a setting, a reward for instance, is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent
_COMMANDS = _ROOT / "cli" / "stages.py"
_HOUSE = {"cli", "cluster", "errors", "formats", "launch", "masking", "owner", "paths", "source", "stage", "study"}
"""What is left out, by the first name below `rlgen`."""
_REST = ""
"""Stands for a module's statements that define no name: they are run whatever is asked of it."""

Definition = tuple[Path, str]
"""A name of a file's top level; or a file that is not Python, with no name."""


@dataclass(frozen=True)
class _Module:
    """A module's top level, by name."""

    statements: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[str, str | None]]
    """By the name that something imported has here: its module and its name there; None: the module itself."""


@cache
def code_digest(stage: str) -> str | None:
    """SHA-256 over what a stage's source does; None if there is no such stage."""
    reached = definitions(stage)
    if not reached:
        return None
    total = hashlib.sha256()
    for path, name in sorted(reached):
        total.update(f"{path.relative_to(_ROOT).as_posix()}\0{name}\0{_content(path, name)}\n".encode())
    return total.hexdigest()


def definitions(stage: str) -> set[Definition]:
    """Everything of rlgen that a stage's command reaches."""
    command = ast.Module(_module(_COMMANDS).statements.get(stage, []), [])
    found: set[Definition] = set()
    left = frozenset(used for module, name in dict(_imports(command)).values() for used in _resolve(module, name))
    while left:
        found |= left
        left = frozenset(used for path, name in left for used in _uses(path, name)) - found
    return found


@cache
def _uses(path: Path, name: str) -> frozenset[Definition]:
    """What the statements that define a name reach at once."""
    if path.suffix != ".py":
        return frozenset()
    module = _module(path)
    nodes = [node for statement in module.statements.get(name, []) for node in ast.walk(statement)]
    found: set[Definition] = {(path, _REST)} if _REST in module.statements else set()
    for used in {node.id for node in nodes if isinstance(node, ast.Name)}:
        if used in module.imports:
            found |= _resolve(*module.imports[used])
        elif used in module.statements:
            found.add((path, used))
        elif used == "__file__":
            found |= {(file, _REST) for file in _data(path.parent)}
    return frozenset(found)


@cache
def _resolve(module: str, name: str | None) -> frozenset[Definition]:
    """What a name of a module stands for: itself, what it is imported from there, or all of a module."""
    path = _file(module)
    if path is None:
        return frozenset()
    found = _module(path)
    if name is None:
        return frozenset((path, defined) for defined in found.statements)
    if name in found.statements:
        return frozenset({(path, name)})
    return _resolve(*found.imports[name]) if name in found.imports else _resolve(f"{module}.{name}", None)


def _file(module: str) -> Path | None:
    """The file of a module of rlgen that counts."""
    first, *steps = module.split(".")
    if first != "rlgen" or not steps or steps[0] in _HOUSE:
        return None
    place = _ROOT.joinpath(*steps)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _data(folder: Path) -> Iterator[Path]:
    """Files beside a module and below it, but not in other packages, that are not Python."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").exists():
            yield from _data(path)
        elif path.is_file() and path.suffix != ".py":
            yield path


@cache
def _module(path: Path) -> _Module:
    tree = ast.parse(path.read_text())
    statements: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _names(statement):
            statements.setdefault(name, []).append(statement)
    return _Module(statements, dict(_imports(tree)))


def _names(statement: ast.stmt) -> list[str]:
    """What a statement defines, `_REST` if it is run for another purpose; nothing if it only imports or explains."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Assign() | ast.AnnAssign():
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        case ast.Import() | ast.ImportFrom() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return []
    return [] if _is_text(statement) else [_REST]


def _imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """What is imported from rlgen anywhere in a module, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlgen"):
            for name in node.names:
                yield name.asname or name.name, (str(node.module), name.name)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("rlgen.") and name.asname:
                    yield name.asname, (name.name, None)


@cache
def _content(path: Path, name: str) -> str:
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return json.dumps([_plain(statement) for statement in _module(path).statements[name]], default=repr)


def _plain(node: Any) -> Any:
    """A syntax tree without places, docstrings and what is empty, which differs between versions of Python."""
    if isinstance(node, list):
        return [_plain(part) for part in node if not _is_text(part)]
    if isinstance(node, ast.AST):
        fields = {name: _plain(value) for name, value in ast.iter_fields(node) if value not in (None, [])}
        return [type(node).__name__, fields]
    return node


def _is_text(node: Any) -> bool:
    """Whether it is a string that stands alone: a docstring of a module, class, function or attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
