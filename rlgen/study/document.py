"""Read a study's file: bytes in, plain values out, or one message about what is not plain YAML.

YAML can say more than a study needs: a key given twice, dates, octal numbers, tags that run code, aliases that unfold
into millions of values. What would be read otherwise than it looks is refused here, with its line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rlgen.errors import StudyError
from rlgen.study.checks.finding import Finding, message, printable
from rlgen.study.scalars import Odd, scalar, shown_tag
from rlgen.study.text import read_text

MOST_VALUES = 100_000
"""Values that a study may hold once all aliases are replaced by what they stand for."""
DEEPEST = 30
"""Sections within sections. A study has about six levels."""
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "<<"


@dataclass(frozen=True)
class Document:
    """What a study's file says."""

    path: Path
    """The file."""
    values: dict[str, Any]
    """Its settings, as they stand there."""
    lines: dict[str, int]
    """The line of every key, by the key's path."""


def read_document(path: Path) -> Document:
    """Read a file of settings.

    Args:
        path: A YAML file in UTF-8, with or without a byte order mark.

    Returns:
        Its values and their lines.

    Raises:
        StudyError: The file cannot be read, is no text, is not valid YAML, or says something that a study cannot say.
    """
    text = read_text(path)
    reader = _Reader(str(path))
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        raise StudyError(_invalid(path, text, error)) from None
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: not valid YAML: {printable(str(error))}") from None
    values = reader.whole()
    if values is None:
        raise StudyError(f"{path}: is empty; a study is a mapping of sections, as in config.yaml")
    if not isinstance(values, dict):
        raise StudyError(f"{path}: holds {type(values).__name__}; a study is a mapping of sections")
    return Document(path, values, reader.lines)


def _invalid(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    """Return one line about text that is no YAML."""
    mark = error.problem_mark or error.context_mark
    lines = text.split("\n")
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = printable(", ".join(part for part in (error.context, error.problem) if part))
    tabs = "\t" in line[: len(line) - len(line.lstrip())]
    remedy = "indent with spaces, not with tabs" if tabs else "correct that line, or the one before it"
    return f"{path}: {place}not valid YAML: {problem}; {remedy}"


@dataclass
class _Node:
    """A value, and how many values it is with all aliases replaced."""

    value: Any
    size: int
    line: int
    plain: bool = False
    """Whether it is a scalar without quotes."""
    text: str = ""
    """A scalar as it is written."""


@dataclass
class _Frame:
    """A mapping or list that is not complete yet."""

    path: str
    line: int
    anchor: str | None
    value: Any
    size: int = 1
    key: str | None = None
    """The key whose value comes next."""
    merging: bool = False
    """Whether the key is a `<<` without quotes."""
    merged: list[dict[str, Any]] = field(default_factory=list)
    """What `<<` brings in, the most important first."""
    first: dict[str, int] = field(default_factory=dict)
    """The line of each key."""

    def place(self) -> str:
        """Return the path of the value that comes next."""
        if isinstance(self.value, list):
            return f"{self.path}[{len(self.value)}]"
        return self.path if self.key is None else _joined(self.path, self.key)


class _Reader:
    """Builds a document from the parser's events, without recursion."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Node] = {}
        self._total = 0
        self._root: _Node | None = None
        self._documents = 0
        self._findings: list[Finding] = []
        self.lines: dict[str, int] = {}

    def whole(self) -> Any:
        """Return the document's value. Raises StudyError if something in it was refused."""
        if self._findings:
            raise StudyError(message(self._source, self._findings))
        return self._root.value if self._root else None

    def take(self, event: Any) -> None:
        """Add an event of the parser. Raises StudyError where reading cannot go on."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop("(top level)", f"a second document begins in line {line}", "keep one study a file")
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._aliased(str(event.anchor), line))
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._open(event, line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._close()

    def _scalar(self, event: Any, line: int) -> None:
        value = None
        try:
            value = scalar(event.value, event.tag, bare=event.implicit[0])
        except Odd as odd:
            if self._is_key():
                place = _joined(self._stack[-1].path, _short(event.value))
                self._findings.append(Finding(place, f"{odd.problem} (line {line})", "put the key in quotes"))
                value = event.value
            else:
                self._findings.append(Finding(self._place(), f"{odd.problem} (line {line})", odd.remedy))
        node = _Node(value, 1, line, plain=event.implicit[0], text=event.value)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._add(node)

    def _open(self, event: Any, line: int) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if len(self._stack) >= DEEPEST:
            problem = f"more than {DEEPEST} levels of nesting in line {line}"
            self._stop(self._place(), problem, "a study has about six; close the brackets, or correct the indentation")
        if self._is_key():
            problem = f"a {'mapping' if mapping else 'list'} stands where a key is expected, in line {line}"
            self._stop(self._stack[-1].path or "(top level)", problem, "write the key as text")
        usual = "tag:yaml.org,2002:map" if mapping else "tag:yaml.org,2002:seq"
        if event.tag not in (None, "!", usual):
            self._findings.append(
                Finding(self._place(), f"has the tag `{shown_tag(event.tag)}` (line {line})", "remove the tag")
            )
        frame = _Frame(self._place(), line, event.anchor, {} if mapping else [])
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        self._stack.append(frame)

    def _close(self) -> None:
        frame = self._stack.pop()
        for other in frame.merged:
            frame.value = {**other, **frame.value}
        node = _Node(frame.value, frame.size, frame.line)
        if frame.anchor:
            self._anchors[frame.anchor] = node
        self._add(node)

    def _aliased(self, name: str, line: int) -> _Node:
        if any(frame.anchor == name for frame in self._stack) and name not in self._anchors:
            problem = f"`*{name}` in line {line} stands within what it stands for"
            self._stop(self._place(), problem, "write out what is meant")
        if name not in self._anchors:
            self._stop(self._place(), f"`*{name}` in line {line} stands for nothing", f"mark a value with `&{name}`")
        found = self._anchors[name]
        return _Node(found.value, found.size, line, found.plain, found.text)

    def _add(self, node: _Node) -> None:
        """Put a complete value in its place."""
        self._total += node.size
        if self._total > MOST_VALUES:
            problem = (
                f"more than {MOST_VALUES:,} values by line {node.line}, with aliases replaced by what they stand for"
            )
            self._stop(self._place(), problem, "a study has some hundreds; write out what is meant")
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        frame.size += node.size
        if isinstance(frame.value, list):
            self.lines.setdefault(frame.place(), node.line)
            frame.value.append(node.value)
        elif frame.key is None:
            self._key(frame, node)
        elif frame.merging:
            self._merge(frame, node)
            frame.key = None
        else:
            frame.value.setdefault(frame.key, node.value)
            frame.key = None

    def _key(self, frame: _Frame, node: _Node) -> None:
        """Begin an entry of a mapping."""
        if isinstance(node.value, (dict, list)):
            problem = f"a mapping or list stands where a key is expected, in line {node.line}"
            self._stop(frame.path or "(top level)", problem, "write the key as text")
        if not isinstance(node.value, str):
            place = _joined(frame.path, _short(node.text))
            problem = f"the key is read as {_named(node.value)}, not as text (line {node.line})"
            self._findings.append(Finding(place, problem, "put the key in quotes"))
        key = node.value if isinstance(node.value, str) else node.text
        place = _joined(frame.path, key)
        if key in frame.first:
            first = frame.first[key]
            where = f"lines {first} and {node.line}" if first != node.line else f"line {first}"
            problem = f"given twice, in {where}"
            self._findings.append(Finding(place, problem, "keep one of them; the other is not read"))
        frame.first.setdefault(key, node.line)
        self.lines.setdefault(place, node.line)
        frame.key, frame.merging = key, key == _MERGE and node.plain

    def _merge(self, frame: _Frame, node: _Node) -> None:
        """Note what `<<` brings in; the mapping's own keys and earlier mappings count before later ones."""
        several = node.value if isinstance(node.value, list) else [node.value]
        if not all(isinstance(one, dict) for one in several):
            place, problem = _joined(frame.path, _MERGE), f"brings in what is no mapping (line {node.line})"
            self._findings.append(Finding(place, problem, "name a mapping, as in `<<: *crosscoder`"))
            return
        frame.merged += several

    def _is_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _place(self) -> str:
        return (self._stack[-1].place() if self._stack else "") or "(top level)"

    def _stop(self, key: str, problem: str, remedy: str) -> NoReturn:
        key = _short(key)
        raise StudyError(message(self._source, [*self._findings, Finding(key, problem, remedy)]))


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path and path != "(top level)" else key


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _named(value: Any) -> str:
    return "nothing" if value is None else str(value).lower() if isinstance(value, bool) else f"the number {value}"
