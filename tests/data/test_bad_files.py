"""Files and folders that cannot be read: each ends with one error that names file and line."""

import datetime
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rlgen.data.jsonl import LONGEST
from tests.data.sources import (
    GOOD,
    PROBLEM,
    ROW,
    choose,
    corpus,
    generate,
    hub_corpus,
    hub_problems,
    lines,
    problems,
    put,
    refused,
)

DEEP = "[" * 200_000 + "]" * 200_000
BAD_FILES: dict[str, tuple[bytes, list[str]]] = {
    "Latin-1": (lines(ROW) + b'{"x": "caf\xe9"}\n', ["line 2", "not UTF-8", "0xe9"]),
    "UTF-16": ('{"x": 1}\n'.encode("utf-16"), ["line 1", "UTF-16"]),
    "UTF-16 without a mark": ('{"x": 1}\n'.encode("utf-16-le"), ["line 1", "NUL bytes"]),
    "UTF-32": ('{"x": 1}\n'.encode("utf-32"), ["line 1", "UTF-32"]),
    "gzip": (gzip.compress(lines(ROW)), ["line 1", "gzip", "unpack"]),
    "zip": (b"PK\x03\x04" + b"\x00\xff" * 40, ["line 1", "zip"]),
    "zstd": (b"\x28\xb5\x2f\xfd" + b"\x01\xff" * 40, ["line 1", "zstd"]),
    "Parquet": (b"PAR1" + b"\x15\x00\xff" * 40, ["line 1", "Parquet"]),
    "other bytes": (bytes(range(128, 256)) * 4, ["line 1", "not UTF-8"]),
    "NUL bytes": (lines(ROW) + b'{"x": "a\x00b"}\n', ["line 2", "NUL bytes"]),
    "cut off": (lines(ROW, ROW)[:-20], ["line 2", "not JSON", "cut off"]),
    "trailing comma": (b'{"x": 1},\n{"x": 2}\n', ["line 1", "not JSON"]),
    "comma in the object": (b'{"x": 1,}\n', ["line 1", "not JSON"]),
    "single quotes": (b"{'x': 1}\n", ["line 1", "not JSON"]),
    "one list": (b'[{"x": 1},\n{"x": 2}]\n', ["line 1", "one JSON object a line"]),
    "indented": (json.dumps(ROW, indent=1).encode(), ["line 1", "one JSON object a line"]),
    "not an object": (lines(ROW, "5"), ["line 2", "not a JSON object"]),
    "a list in a line": (lines(["a"]), ["line 1", "not a JSON object"]),
    "a text in a line": (lines('"a"'), ["line 1", "not a JSON object"]),
    "null in a line": (lines("null"), ["line 1", "not a JSON object"]),
    "deep": (lines(ROW, f'{{"x": {DEEP}}}'), ["line 2", "nested too deeply"]),
    "deep objects": (lines('{"x": ' * 100_000 + "1" + "}" * 100_000), ["line 1", "nested too deeply"]),
    "the same key twice": (lines('{"x": 1, "answer": "2", "answer": "3"}'), ["line 1", "`answer`", "twice"]),
    "an inner key twice": (lines('{"x": {"y": 1, "y": 1}}'), ["line 1", "`y`", "twice"]),
    "a csv": (b"question,answer\na,b\n", ["line 1", "not JSON"]),
    "a control character": (b'{"x": "a\x01b"}\n', ["line 1", "not JSON"]),
    "old Mac line ends": (lines(ROW).replace(b"\n", b"\r") + b'{"x" 2}\r', ["line 2", "not JSON"]),
}


@pytest.mark.parametrize("make", [generate, problems, corpus, hub_problems], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", sorted(BAD_FILES))
def test_a_file_that_is_not_clean_jsonl(tmp_path: Path, name: str, make: Any) -> None:
    content, fragments = BAD_FILES[name]
    if make is hub_problems and name in ("one list", "a list in a line"):
        pytest.skip("a folder may hold one list")
    refused(make, put(tmp_path, content), tmp_path / "out", "rows.jsonl", *fragments)


@pytest.mark.parametrize("make", [generate, choose, problems, corpus], ids=lambda f: f.__name__)
def test_a_path_that_is_no_file(tmp_path: Path, make: Any) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, fragment in (
        ("none.jsonl", "no such file"),
        ("folder.jsonl", "is a folder"),
        ("pipe.jsonl", "not an ordinary file"),
    ):
        refused(make, tmp_path / name, tmp_path / "a" / "out", name, fragment)


@pytest.mark.skipif(os.geteuid() == 0, reason="the root user can read every file")
@pytest.mark.parametrize("make", [generate, problems, corpus, hub_problems], ids=lambda f: f.__name__)
def test_a_file_that_may_not_be_read(tmp_path: Path, make: Any) -> None:
    path = put(tmp_path, lines(GOOD))
    path.chmod(0)
    refused(make, path, tmp_path / "out", "rows.jsonl", "cannot be read")


def test_a_line_without_end(tmp_path: Path) -> None:
    path = put(tmp_path, b"")
    with path.open("r+b") as file:
        file.write(b'{"question": "')
        file.truncate(LONGEST + 10)  # the rest is a hole, so this takes no space
    refused(generate, path, tmp_path / "out", "rows.jsonl, line 1", "longer than 64 MiB")


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n", b"\xef\xbb\xbf"], ids=["empty", "line", "blank", "mark"])
@pytest.mark.parametrize("make", [generate, problems, corpus], ids=lambda f: f.__name__)
def test_a_file_without_rows(tmp_path: Path, make: Any, content: bytes) -> None:
    refused(make, put(tmp_path, content), tmp_path / "out", "rows.jsonl")


# ------------------------------------------------------------------------------------------ folders of the hub


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    path = put(tmp_path, lines(PROBLEM))
    refused(hub_problems, path, tmp_path / "out", "problems.sources.0", "no split `test`", "train", split="test")


def test_a_split_without_rows(tmp_path: Path) -> None:
    refused(hub_problems, put(tmp_path, b""), tmp_path / "out", str(tmp_path / "rows"))
    refused(hub_corpus, tmp_path / "rows" / "rows.jsonl", tmp_path / "more", str(tmp_path / "rows"))


def test_a_folder_without_data(tmp_path: Path) -> None:
    path = put(tmp_path, b"nothing", "notes.xyz")
    refused(hub_problems, path, tmp_path / "out", "problems.sources.0", "rows (train)", "cannot be read")


@pytest.mark.parametrize(
    ("column", "fragment"),
    [
        ([2.0**70, 2.0], "last digits are lost"),
        ([float("inf"), 1.0], "no finite number"),
        ([True, False], "truth value"),
        ([["1"], ["2"]], "is a list"),
        ([{"a": 1}, {"a": 2}], "is an object"),
        ([b"1", b"2"], "bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_column_of_golds_that_are_no_texts(tmp_path: Path, column: list[Any], fragment: str) -> None:
    path = put(tmp_path, b"", "train.parquet")
    table = {"problem": ["a", "b"], "answer": column, "solution": ["s", "s"]}
    Dataset.from_dict(table).to_parquet(path)
    refused(hub_problems, path, tmp_path / "out", "rows (train), row 1", "`answer`", fragment)


def test_a_column_of_dates(tmp_path: Path) -> None:
    path = put(tmp_path, b"", "train.parquet")
    table = {"problem": ["a"], "answer": [datetime.datetime(2024, 1, 2)], "solution": ["s"]}
    Dataset.from_dict(table).to_parquet(path)
    refused(hub_problems, path, tmp_path / "out", "row 1", "`answer`", "a date or a time")


def test_a_table_that_is_none(tmp_path: Path) -> None:
    for number, (content, fragment) in enumerate(
        [
            (b"problem,answer,solution\na,1\n", "line 2: 2 cells for 3 columns"),
            (b"problem,answer,answer\na,1,2\n", "line 1: a column is named twice"),
            (b'problem,answer,solution\n"a"b,1,2\n', "line 2: not a table"),
            (b"problem,answer,solution\ncaf\xe9,1,2\n", "line 2: not UTF-8"),
            (b"problem,answer,solution\na,,2\n", "field `answer` is empty"),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        path = put(tmp_path / str(number), content, "train.csv")
        refused(hub_problems, path, tmp_path / "out", "problems.sources.0", "train.csv", fragment)
