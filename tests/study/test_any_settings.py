"""Whatever is done to a study, it is read or refused: no other exception, and never without end."""

import contextlib
import copy
import json
import math
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snakemake.utils import update_config

from rlgen.errors import StudyError
from rlgen.study import load_study, parse_study
from rlgen.study.load import merged
from tests.study.settings import GOOD, ROOT

TEXT = (ROOT / "config.yaml").read_text()
LINES = TEXT.splitlines()
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, -(10**400), 0.5, -0.5, 1e308, math.inf, math.nan),
    *("", " ", "a", "base", "rl", "null-a", "x" * 300, "a.old", "a\0b", "\ud800", "{}", "{x", "{problem}", "..", "~"),
    *("1e-3", "1:30", "mod", "a:b", ".x:y", "os:system", [], [[]], [None], ["base"], ["base", "base"], {}, {"": 1}),
    *({"a": {}}, {1: 2}, {"name": "x"}, {"source": "jsonl", "path": "/"}, {"method": "existing", "path": "."}),
    *({"method": "existing", "path": "/dev/null"}, {"source": "hub", "path": "a/b"}, b"x", (1, 2), {1}, object()),
]


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in settings."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = [path] if path else []
    for key, value in entries:
        found += places(value, (*path, key))
    return found


PLACES = places(GOOD)


def parent(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def spoil(tree: Any, path: tuple[Any, ...], how: str, value: Any) -> None:
    """Change settings at a path, if it is still there."""
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        holder = parent(tree, path)
        if how == "remove":
            del holder[path[-1]]
        elif how == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[path[-1]]))
        elif how == "rename" and isinstance(holder, dict):
            holder[value if isinstance(value, (str, int)) else repr(value)] = holder.pop(path[-1])
        else:
            holder[path[-1]] = value


CHANGES = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["remove", "double", "rename", "put"]), st.sampled_from(ODD)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(CHANGES)
def test_spoilt_settings_are_a_study_or_refused(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    tree = copy.deepcopy(GOOD)
    for path, how, value in changes:
        spoil(tree, path, how, copy.deepcopy(value) if type(value) is not object else value)
    with contextlib.suppress(StudyError):
        parse_study(tree)


def test_every_value_can_be_any_other() -> None:
    for number, path in enumerate(PLACES):
        for value in ODD[number % 3 :: 3]:
            tree = copy.deepcopy(GOOD)
            parent(tree, path)[path[-1]] = value
            try:
                parse_study(tree)
            except StudyError as error:
                said = str(error)
                assert said.replace("\n", "").isprintable()
                assert len(said) < 20_000


EDITS = st.lists(
    st.tuples(
        st.integers(0, len(LINES) - 1),
        st.sampled_from(["drop", "double", "indent", "dedent", "cut", "join"]),
        st.sampled_from(
            [": ", "- ", "*x", "&x ", "<<: *crosscoder", "? ", "[", "}", "!!str", "\t", "'", "%", "\x00", "é"]
        ),
    ),
    min_size=1,
    max_size=5,
)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(EDITS)
def test_spoilt_text_is_a_study_or_refused(tmp_path: Path, edits: list[tuple[int, str, str]]) -> None:
    lines = list(LINES)
    for number, how, text in edits:
        line = lines[number]
        lines[number] = {
            "drop": "",
            "double": f"{line}\n{line}",
            "indent": f"  {line}",
            "dedent": line.removeprefix("  "),
            "cut": line[: len(line) // 2],
            "join": line.replace(": ", f": {text}", 1),
        }[how]
    file = tmp_path / "study.yaml"
    file.write_text("\n".join(lines))
    with contextlib.suppress(StudyError):
        load_study(file)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused(tmp_path_factory: Any, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(content)
    with contextlib.suppress(StudyError):
        load_study(file)
        raise AssertionError("60 bytes are no study")


TREES = st.recursive(
    st.none() | st.integers() | st.text(max_size=2) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=12,
)
MAPPINGS = st.dictionaries(st.sampled_from("abcd"), TREES, max_size=3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(MAPPINGS, MAPPINGS)
def test_settings_are_merged_as_snakemake_merges_them(values: dict[str, Any], more: dict[str, Any]) -> None:
    before = json.dumps([values, more])
    found = merged(values, more)
    assert json.dumps([values, more]) == before
    update_config(values, more)
    assert found == values


def test_settings_of_the_command_line_are_merged_into_sections(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    found = load_study(file, {"corpus": {"tokens": "131072"}, "seed": 3})
    assert (found.corpus.tokens, found.corpus.row_length, found.seed) == (131072, 256, 3)
