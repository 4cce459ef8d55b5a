"""Rows that are read right: no value changes between the file and the artifact."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlgen.data.corpus import read_corpus
from rlgen.data.jsonl import LONGEST
from rlgen.data.problems import read_problems
from rlgen.data.tasks import read_items
from rlgen.data.values import parse_json, text_of
from tests.data.sources import (
    GOOD,
    MC,
    PROBLEM,
    benchmark,
    choose,
    corpus,
    generate,
    hub_corpus,
    hub_problems,
    lines,
    problems,
    put,
)

GOLDS = {
    "5": "5",
    "-5": "-5",
    "0.00001": "0.00001",
    "1e-05": "0.00001",
    "-2.5E-7": "-0.00000025",
    "1e+16": "10000000000000000",
    "1.5e3": "1500",
    "1.50": "1.50",
    "5.0": "5.0",
    "0.1": "0.1",
    "3.14159265358979323846264338327950288": "3.14159265358979323846264338327950288",
    str(2**70 + 1): str(2**70 + 1),
    f"{2**70 + 1}.5": f"{2**70 + 1}.5",
    "9" * 400: "9" * 400,
    '"5"': "5",
    '"007"': "007",
    '"2024-01-02"': "2024-01-02",
    '"NA"': "NA",
    '"true"': "true",
    '"1e-05"': "1e-05",
    '"\\u00e9\\ud83d\\ude00"': "é😀",
}
"""What stands in the file, and the gold that it is."""


@pytest.mark.parametrize("make", [generate, problems, hub_problems], ids=lambda f: f.__name__)
def test_golds_are_what_was_written(tmp_path: Path, make: Any) -> None:
    good = GOOD if make is generate else PROBLEM
    rows = [
        json.dumps({**good, "problem": f"{n} + 1?", "answer": "HERE"}).replace('"HERE"', literal)
        for n, literal in enumerate(GOLDS)
    ]
    make(put(tmp_path, lines(*rows)), tmp_path / "out", **({} if make is generate else {"unverifiable": "keep"}))
    found = read_items(tmp_path / "out") if make is generate else read_problems(tmp_path / "out")
    assert [row["answer"] for row in found] == list(GOLDS.values())


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_a_numbers_text_is_the_number(value: float) -> None:
    text = text_of(parse_json(json.dumps(value)))
    assert type(value)(text) == value
    assert "e" not in text


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: text.rstrip(b"\n"),
        lambda text: b"\n \n" + text.replace(b"\n", b"\n\n") + b"\n\t\n",
        lambda text: text.replace(b"{", b" {").replace(b"}", b"} "),
    ],
    ids=["mark", "CRLF", "CR", "no last line end", "blank lines", "white space"],
)
def test_other_line_ends_and_marks(tmp_path: Path, change: Any) -> None:
    rows = [{**GOOD, "id": str(n), "question": f"é {n}\u2028?"} for n in range(3)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    generate(put(tmp_path, change(text)), tmp_path / "out")
    assert [row["question"] for row in read_items(tmp_path / "out")] == [row["question"] for row in rows]


def test_fields_that_nothing_reads_may_hold_anything(tmp_path: Path) -> None:
    row = json.dumps(GOOD)[:-1] + f', "a": NaN, "b": 1e999, "c": {"9" * 5000}, "d": null, "e": "\\ud800", "f": [true]}}'
    generate(put(tmp_path, lines(row)), tmp_path / "out")
    assert read_items(tmp_path / "out") == [
        {"id": "1", "prompt": "Question: 1 + 1?\nAnswer:", "question": "1 + 1?", "answer": "2"}
    ]


def test_a_long_line(tmp_path: Path) -> None:
    generate(put(tmp_path, lines({**GOOD, "question": "x" * 5_000_000})), tmp_path / "out")
    assert len(read_items(tmp_path / "out")[0]["question"]) == 5_000_000


def test_a_row_without_an_id_has_its_number(tmp_path: Path) -> None:
    ids = [{"id": None}, {}, {"id": ""}, {"id": 7}, {"id": "x"}, {"id": 2.50}]
    rows = [{**GOOD, **MC, **PROBLEM, "answer": 1, "problem": f"{n}?"} | name for n, name in enumerate(ids)]
    path = put(tmp_path, lines(*rows))
    expected = ["1", "2", "3", "7", "x", "2.5"]
    choose(path, tmp_path / "task")
    problems(path, tmp_path / "problems")
    hub_problems(path, tmp_path / "hub")
    assert [row["id"] for row in read_items(tmp_path / "task")] == expected
    assert [row["id"] for row in read_problems(tmp_path / "problems")] == expected
    assert read_problems(tmp_path / "hub") == read_problems(tmp_path / "problems")


def test_numbers_in_a_prompt_are_what_was_written(tmp_path: Path) -> None:
    row = '{"context": 1e-05, "question": 1.50, "answer": "2"}'
    generate(put(tmp_path, lines(row)), tmp_path / "out", prompt="{context} {{}} {question}")
    assert read_items(tmp_path / "out")[0]["prompt"] == "0.00001 {} 1.50"


def test_a_context_may_be_empty(tmp_path: Path) -> None:
    path = put(tmp_path, lines({**GOOD, "context": ""}))
    generate(path, tmp_path / "out", prompt="{context}{question}")
    assert read_items(tmp_path / "out")[0]["prompt"] == "1 + 1?"


def test_equal_choices_are_kept_where_the_item_has_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**MC, "choices": ["a", "b", "b"], "answer": 0}, {**MC, "choices": ["a", "b", "b"], "answer": 1}]
    with caplog.at_level(logging.INFO, "rlgen"):
        choose(put(tmp_path, lines(rows[0], MC)), tmp_path / "task")
        (tmp_path / "more").mkdir()
        benchmark(put(tmp_path / "more", lines(*rows, MC)), tmp_path / "benchmark", "arc_easy")
    assert [row["choices"] for row in read_items(tmp_path / "benchmark")] == [["a", "b", "b"]] * 2 + [["a", "b"]]
    assert "1 of 2 items have equal choices; in 0 of them" in caplog.text
    assert "2 of 3 items have equal choices; in 1 of them" in caplog.text


@pytest.mark.parametrize("level", [2, 2.0, "Level 2", "2", 10**400])
def test_levels(tmp_path: Path, level: Any) -> None:
    path = put(tmp_path, lines({**PROBLEM, "level": level}, {**PROBLEM, "problem": "b?", "level": 3}))
    problems(path, tmp_path / "out", level="level", levels=(1, 3))
    assert len(read_problems(tmp_path / "out")) == (1 if level == 10**400 else 2)


# ------------------------------------------------------------------------------------------ folders of the hub


def rows_with(*golds: Any) -> list[dict[str, Any]]:
    return [{**PROBLEM, "problem": f"{n} + 1?", "answer": gold} for n, gold in enumerate(golds)]


TABLE = "problem,answer,solution\n" + "".join(f'{n} + 1?,"{gold}",s\n' for n, gold in enumerate(["007", "1.50", "NA"]))
FOLDERS: dict[str, tuple[str, bytes, list[str]]] = {
    "dates": ("a.jsonl", lines(*rows_with("2024-01-02", "2024-01-03")), ["2024-01-02", "2024-01-03"]),
    "long integers": ("a.jsonl", lines(*rows_with(2**70, 2**70 + 1)), [str(2**70), str(2**70 + 1)]),
    "mixed": ("a.jsonl", lines(*rows_with(1, "x", 2.5)), ["1", "x", "2.5"]),
    "packed": ("a.jsonl.gz", gzip.compress(lines(*rows_with("1", 2.50))), ["1", "2.5"]),
    "one list": ("a.json", json.dumps(rows_with("1", 2**70), indent=1).encode(), ["1", str(2**70)]),
    "a table": ("a.csv", TABLE.encode(), ["007", "1.50", "NA"]),
    "a table with a mark": ("a.csv", b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode(), ["007", "1.50", "NA"]),
    "a table of tabs": ("a.tsv", TABLE.replace(",", "\t").encode(), ["007", "1.50", "NA"]),
}


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_folders_golds_are_what_was_written(tmp_path: Path, name: str) -> None:
    file, content, expected = FOLDERS[name]
    hub_problems(put(tmp_path, content, file), tmp_path / "out", unverifiable="keep")
    assert [row["answer"] for row in read_problems(tmp_path / "out")] == expected


def test_a_column_of_nulls_and_then_text(tmp_path: Path) -> None:
    """`datasets` takes a column without text in its first megabytes for one of nulls."""
    filler = "x" * 400
    rows = [{**row, "solution": None, "filler": filler} for row in rows_with(*["1"] * 30_000)]
    rows.append({**PROBLEM, "problem": "last", "filler": filler})
    hub_problems(put(tmp_path, lines(*rows)), tmp_path / "out", unverifiable="drop")
    assert [row["problem"] for row in read_problems(tmp_path / "out")] == ["last"]


def test_a_long_list_in_one_line(tmp_path: Path) -> None:
    """A list may be longer than the longest line."""
    content = json.dumps([{**row, "filler": "x" * 7_000_000} for row in rows_with(*"123456789", "10")]).encode()
    assert len(content) > LONGEST
    hub_problems(put(tmp_path, content, "a.json"), tmp_path / "out")
    assert [row["answer"] for row in read_problems(tmp_path / "out")] == [*"123456789", "10"]


def test_a_field_that_some_rows_lack_is_null_there(tmp_path: Path) -> None:
    rows = rows_with("1", "2", "3")
    del rows[0]["solution"], rows[2]["answer"]
    hub_problems(put(tmp_path, lines(*rows)), tmp_path / "out", unverifiable="drop")
    assert [row["answer"] for row in read_problems(tmp_path / "out")] == ["2"]


def test_splits_and_files_are_the_librarys(tmp_path: Path) -> None:
    path = put(tmp_path, lines(*rows_with("1")), "train-b.jsonl")
    (path.parent / "train-a.jsonl").write_bytes(lines({**PROBLEM, "problem": "first?", "answer": "0"}))
    (path.parent / "test.jsonl").write_bytes(lines(*rows_with("9")))
    hub_problems(path, tmp_path / "train")
    hub_problems(path, tmp_path / "test", split="test")
    assert [row["answer"] for row in read_problems(tmp_path / "train")] == ["0", "1"]
    assert [row["answer"] for row in read_problems(tmp_path / "test")] == ["9"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0.00001, 0.1]), ["0.00001", "0.1"]),
        (pa.array([0.1, 2.5], pa.float32()), ["0.1", "2.5"]),
        (pa.array([2**62 + 1, 3]), [str(2**62 + 1), "3"]),
        (pa.array(["2024-01-02", "007"]), ["2024-01-02", "007"]),
    ],
    ids=["float64", "float32", "int64", "text"],
)
def test_columns_of_parquet(tmp_path: Path, column: pa.Array, expected: list[str]) -> None:
    path = put(tmp_path, b"", "a.parquet")
    pq.write_table(pa.table({"problem": ["a?", "b?"], "solution": ["s", "s"], "answer": column}), path)
    hub_problems(path, tmp_path / "out", unverifiable="keep")
    assert [row["answer"] for row in read_problems(tmp_path / "out")] == expected


def test_a_folders_texts_are_those_of_its_file(tmp_path: Path) -> None:
    rows = [{"text": f"Q max {n}\nA {n}"} for n in range(200)]
    path = put(tmp_path, lines(*rows))
    corpus(path, tmp_path / "one" / "out")
    path.write_bytes(lines({"text": ""}, *rows, {"text": ""}))
    hub_corpus(path, tmp_path / "other" / "out")
    assert read_corpus(tmp_path / "one" / "out")[0]["digest"] == read_corpus(tmp_path / "other" / "out")[0]["digest"]
