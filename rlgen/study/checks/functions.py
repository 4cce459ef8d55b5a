"""Functions that the study names: whether they can be imported, without importing them.

A module is found as Python finds it, and its source is parsed. Nothing in it is run, so a check is quick and safe.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import keyword
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from rlgen.study.checks.finding import Finding
from rlgen.study.sections import GrpoArm
from rlgen.study.study import Study

FORM = "write it as `package.module:function`"
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "answer")
"""What a reward is called with, by name."""
_MOST_SOURCE = 2_000_000


@dataclass(frozen=True)
class Named:
    """A function that a setting names."""

    key: str
    name: str
    reward: bool = False
    """Whether it is called with named columns; otherwise with two texts."""


class _Fault(Exception):
    """A function cannot be imported: what is wrong, and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


def named(study: Study) -> list[Named]:
    """Return every function that the study names."""
    rewards = [(i, arm.reward) for i, arm in enumerate(study.arms) if isinstance(arm, GrpoArm)]
    found = [Named(f"arms[{i}].reward", reward, reward=True) for i, reward in rewards]
    if study.interventions.mode is not None:
        found.append(Named("interventions.mode", study.interventions.mode))
    return found + [Named(key, name) for key, name in _verifiers(study) if ":" in name]


def _verifiers(study: Study) -> list[tuple[str, str]]:
    """Return key and name of every verifier that the study names."""
    owners: list[tuple[str, object]] = [("verifier", study), ("problems.verifier", study.problems)]
    owners += [(f"tasks.{group}[{i}].verifier", task) for group, tasks in study.tasks for i, task in enumerate(tasks)]
    return [(key, name) for key, owner in owners if (name := getattr(owner, "verifier", None))]


def check_forms(study: Study) -> Iterator[Finding]:
    """Yield names that are not of the form `package.module:function`."""
    for function in named(study):
        module, colon, attribute = function.name.partition(":")
        parts = [*module.split("."), attribute]
        if not colon or not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
            yield Finding(function.key, f"given '{function.name}'", FORM)


def check_functions(study: Study) -> Iterator[Finding]:
    """Yield functions that cannot be imported, or cannot be called as they will be."""
    importlib.invalidate_caches()
    for function in named(study):
        try:
            _check(function)
        except _Fault as fault:
            yield Finding(function.key, fault.problem, fault.remedy)


def files_of_functions(study: Study) -> set[Path]:
    """Return the source files of the functions that the study names. The study has been checked."""
    files = (_source(function.name.partition(":")[0]) for function in named(study))
    return {file for file in files if file}


def _check(function: Named) -> None:
    """Raise _Fault if the function cannot be used."""
    module, _, attribute = function.name.partition(":")
    source = _source(module)
    if source is None:
        return  # no Python source: an extension module
    tree, file = _tree(source), source
    names = _Names(tree)
    if attribute not in names.bound:
        if names.open:
            return
        near = difflib.get_close_matches(attribute, names.bound, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise _Fault(f"{file} has no `{attribute}`", f"{hint}define it at the top level of that file")
    _check_call(names.bound[attribute], function, file)
    if _is_here(source):
        _check_imports(tree, source)


def _check_call(node: ast.AST | None, function: Named, file: Path) -> None:
    """Raise _Fault if what the name stands for cannot be called as it will be."""
    name = function.name.partition(":")[2]
    place = f"`{name}` in {file}"
    if isinstance(node, (ast.Constant, ast.List, ast.Dict, ast.Tuple, ast.Set, ast.JoinedStr)):
        raise _Fault(f"{place} is a value, not a function", "name a function")
    if isinstance(node, ast.Module):
        raise _Fault(f"{place} is a module, not a function", "name a function of it, as `package.module:function`")
    if isinstance(node, ast.ClassDef):
        raise _Fault(
            f"{place} is a class, and calling it makes an object", "name a function, or an object of the class"
        )
    if isinstance(node, ast.AsyncFunctionDef):
        raise _Fault(f"{place} is `async`, and it is called as a plain function", "define it by `def`")
    if not isinstance(node, (ast.FunctionDef, ast.Lambda)) or getattr(node, "decorator_list", None):
        return
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = positional[: len(positional) - len(arguments.defaults)]
    keywords = [a for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is None]
    if function.reward:
        if arguments.kwarg is None:
            raise _Fault(f"{place} takes no `**columns`", "add `**columns`: it is given prompts, completions and more")
        if arguments.posonlyargs:
            raise _Fault(f"{place} takes arguments by place only", "remove the `/`: it is called with named arguments")
        for argument in (*required, *keywords):
            if argument.arg not in GIVEN:
                near = difflib.get_close_matches(argument.arg, GIVEN, n=1)
                hint = f"did you mean `{near[0]}`? " if near else ""
                remedy = f"{hint}it is given {', '.join(GIVEN)}; give other arguments a default"
                raise _Fault(f"{place} asks for `{argument.arg}`, which it is not given", remedy)
    elif len(required) > 2 or keywords or (len(positional) < 2 and arguments.vararg is None):
        raise _Fault(f"{place} cannot be called with two texts", "let it take two arguments by place")


def _check_imports(tree: ast.Module, file: Path) -> None:
    """Raise _Fault if a module of the working directory imports what is not installed, or always raises an error."""
    for node in tree.body:
        if isinstance(node, ast.Raise):
            raise _Fault(f"{file}, line {node.lineno}: raises an error when it is imported", "correct it")
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            wanted = [node.module]
        else:
            continue
        for name in wanted:
            if _top(name.partition(".")[0]) is None:
                problem = f"{file}, line {node.lineno}: imports `{name}`, which is not installed"
                raise _Fault(problem, "install it, or start from the folder that holds it")


class _Names:
    """The names that a module binds at its top level, and what they stand for, as far as its source says."""

    def __init__(self, tree: ast.Module) -> None:
        self.bound: dict[str, ast.AST | None] = {}
        self.open = False
        """Whether there may be other names: by `import *`, or by a function `__getattr__`."""
        for node in tree.body:
            self._take(node)

    def _take(self, node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            again = node.name in self.bound and self._inner
            self.bound[node.name] = None if again else node
            self.open |= node.name == "__getattr__"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                self.open |= alias.name == "*"
                plain = isinstance(node, ast.Import)
                self.bound[alias.asname or alias.name.partition(".")[0]] = ast.Module([], []) if plain else None
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                whole = isinstance(target, ast.Name)
                for name in (n for n in ast.walk(target) if isinstance(n, ast.Name)):
                    self.bound[name.id] = node.value if whole and not self._inner else None
        else:
            outer, self._inner = self._inner, True
            for child in ast.iter_child_nodes(node):
                if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
                    self._take(child)
                elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                    self.bound[child.id] = None
            self._inner = outer

    _inner = False
    """Whether a block such as `try` or `if` is being read, so that a name may be bound in several ways."""


def _tree(file: Path) -> ast.Module:
    """Return a file's syntax tree."""
    try:
        source = file.read_bytes()
        if len(source) > _MOST_SOURCE:
            raise _Fault(f"{file}: has {len(source):,} bytes", "name a function of a smaller file")
        return ast.parse(source, str(file))
    except SyntaxError as error:
        place = f", line {error.lineno}" if error.lineno else ""
        raise _Fault(f"{file}{place}: not valid Python: {error.msg}", "correct it") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise _Fault(f"{file}: cannot be read: {error}", "give a file of Python source") from None


def _source(module: str) -> Path | None:
    """Return the file of a module's source; None if it has none. Raise _Fault if there is no such module."""
    first, *rest = module.split(".")
    spec, path = _top(first), first
    for part in rest:
        if spec is None:
            break
        where = list(spec.submodule_search_locations or [])
        if not where:
            raise _Fault(f"`{path}` is a module, and has no `{part}` in it", FORM)
        path = f"{path}.{part}"
        spec = PathFinder.find_spec(part, where) or _within(path, where)  # by its last name: no parent is imported
    if spec is None:
        raise _Fault(f"there is no module `{path}`", "start from the folder that holds it, or install it")
    file = Path(spec.origin) if spec.has_location and spec.origin else None
    if file is None and spec.submodule_search_locations is not None:
        raise _Fault(f"`{path}` is a folder without `__init__.py`", "name a module in it, as `package.module:function`")
    return file if file and file.suffix == ".py" and file.is_file() else None


def _within(name: str, where: list[str]) -> ModuleSpec | None:
    """Return a module that a finder other than Python's own knows, such as that of an editable installation."""
    for finder in sys.meta_path:
        if finder is not PathFinder and (spec := finder.find_spec(name, where)) is not None:
            return spec
    return None


def _installed(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return None


def _top(name: str) -> ModuleSpec | None:
    """Return a top-level module: an installed one, or else one of the working directory."""
    return _installed(name) or PathFinder.find_spec(name, [str(Path.cwd())])


def _is_here(file: Path) -> bool:
    here = Path.cwd()
    return here in file.absolute().parents and "site-packages" not in file.parts
