"""Rows that cannot be used: each ends with one error that names the file, the line and the field."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

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
    refused,
)

LONG = "9" * 5000
NO_TEXT: dict[str, tuple[str, str]] = {
    "null": ("null", "is null"),
    "true": ("true", "true"),
    "false": ("false", "false"),
    "a list": ('["3", "5"]', "is a list"),
    "an empty list": ("[]", "is a list"),
    "an object": ('{"value": "3"}', "is an object"),
    "NaN": ("NaN", "NaN"),
    "Infinity": ("Infinity", "Infinity"),
    "minus Infinity": ("-Infinity", "-Infinity"),
    "a float out of range": ("1e999", "1e999"),
    "a float too small": ("1e-999", "1e-999"),
    "5,000 digits": (LONG, "5,000 digits"),
    "minus 5,000 digits": (f"-{LONG}", "5,000 digits"),
    "empty": ('""', "is empty"),
    "white space": ('" \\t\\n\\u00a0"', "is empty"),
    "marks that nobody sees": ('" \\u200b\\ufeff"', "is empty"),
    "half of a pair": ('"a\\ud800"', "surrogate"),
    "the other half": ('"\\udc00a"', "surrogate"),
    "NUL": ('"a\\u0000"', "NUL"),
}


@pytest.mark.parametrize("name", sorted(NO_TEXT))
@pytest.mark.parametrize(
    ("make", "good", "field"),
    [
        (generate, GOOD, "answer"),
        (generate, GOOD, "question"),
        (problems, PROBLEM, "problem"),
        (problems, PROBLEM, "answer"),
        (problems, PROBLEM, "solution"),
        (hub_problems, PROBLEM, "problem"),
        (hub_problems, PROBLEM, "answer"),
        (hub_problems, PROBLEM, "solution"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_a_field_that_is_no_text(tmp_path: Path, name: str, make: Any, good: dict[str, str], field: str) -> None:
    value, fragment = NO_TEXT[name]
    row = json.dumps({**good, field: "HERE"}).replace('"HERE"', value)
    fragments = ["rows.jsonl", "line 2", f"`{field}`"]
    if make is hub_problems and name in ("null", "NaN"):
        fragment = "is empty; set `problems.unverifiable: drop`"
    refused(make, put(tmp_path, lines(good, row)), tmp_path / "out", *fragments, fragment)


@pytest.mark.parametrize("value", ["null", "5", "true", "[]", '{"a": 1}', '"a\\ud800"'])
@pytest.mark.parametrize("make", [corpus, hub_corpus], ids=lambda f: f.__name__)
def test_a_document_that_is_no_text(tmp_path: Path, make: Any, value: str) -> None:
    path = put(tmp_path, lines({"text": "Q max 1"}, f'{{"text": {value}}}'))
    refused(make, path, tmp_path / "out", "corpus.sources.0", "rows.jsonl", "line 2", "`text`")


@pytest.mark.parametrize("value", ['""', '" "'])
def test_a_document_that_is_empty(tmp_path: Path, value: str) -> None:
    path = put(tmp_path, lines({"text": "Q max 1"}, f'{{"text": {value}}}'))
    refused(corpus, path, tmp_path / "out", "rows.jsonl, line 2", "`text`", "is empty")


@pytest.mark.parametrize("value", ["null", "true", "[3]", '{"level": 3}', "NaN", "1e999"])
def test_a_level_that_is_none(tmp_path: Path, value: str) -> None:
    row = json.dumps({**PROBLEM, "level": "HERE"}).replace('"HERE"', value)
    path = put(tmp_path, lines({**PROBLEM, "level": 2}, row))
    refused(problems, path, tmp_path / "out", "line 2", "`level`", level="level", levels=(1, 3))


@pytest.mark.parametrize("value", ["true", "[1]", '{"a": 1}', "NaN", "1e999", LONG, '"a\\ud800"', '" "'])
@pytest.mark.parametrize(
    ("make", "good"), [(generate, GOOD), (choose, MC), (problems, PROBLEM)], ids=["generate", "choose", "problems"]
)
def test_an_id_that_is_none(tmp_path: Path, make: Any, good: dict[str, Any], value: str) -> None:
    row = json.dumps({**good, "id": "HERE"}).replace('"HERE"', value)
    refused(make, put(tmp_path, lines(row)), tmp_path / "out", "rows.jsonl, line 1", "`id`")


@pytest.mark.parametrize("ids", [("1", "1"), (1, "1"), (None, "1"), ("", "1"), (1.5, "1.5")])
@pytest.mark.parametrize(("make", "good"), [(generate, GOOD), (choose, MC), (problems, PROBLEM)])
def test_an_id_that_comes_twice(tmp_path: Path, make: Any, good: dict[str, Any], ids: tuple[Any, Any]) -> None:
    rows = [{**good, "id": ids[0]}, {**good, "id": "x", "problem": "3?"}, {**good, "problem": "2?", "id": ids[1]}]
    refused(make, put(tmp_path, lines(*rows)), tmp_path / "out", "rows.jsonl, line 1", "rows.jsonl, line 3", "twice")


# ------------------------------------------------------------------------------------------------- choices

BAD_CHOICES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "none": ({"choices": None}, ["`choices`", "null"]),
    "one": ({"choices": ["a"]}, ["`choices`", "two texts"]),
    "no list": ({"choices": "ab"}, ["`choices`", "two texts"]),
    "an object": ({"choices": {"text": ["a", "b"]}}, ["`choices`", "two texts"]),
    "numbers": ({"choices": ["3", 4]}, ["`choices`", "choice 1"]),
    "null in it": ({"choices": ["3", None]}, ["`choices`", "choice 1", "null"]),
    "a list in it": ({"choices": [["a"], "b"]}, ["`choices`", "choice 0"]),
    "empty": ({"choices": ["a", ""]}, ["`choices`", "choice 1", "empty"]),
    "white space": ({"choices": [" \n", "b"]}, ["`choices`", "choice 0", "empty"]),
    "equal": ({"choices": ["a", "a"]}, ["`choices`", "twice"]),
    "equal but for the spelling of an accent": ({"choices": ["a", "e\u0301", "\u00e9"]}, ["`choices`", "twice"]),
    "marks that nobody sees": ({"choices": ["\u200b", "b"]}, ["`choices`", "choice 0", "empty"]),
    "equal but for white space": ({"choices": ["a", "b ", "b"]}, ["`choices`", "twice"]),
    "half of a pair": ({"choices": ["a", "\ud800"]}, ["`choices`", "choice 1", "surrogate"]),
    "answer true": ({"answer": True}, ["`answer`", "True", "index into 2"]),
    "answer a float": ({"answer": 1.0}, ["`answer`", "1.0", "index"]),
    "answer a text": ({"answer": "1"}, ["`answer`", "'1'", "without quotes"]),
    "answer a letter": ({"answer": "B"}, ["`answer`", "'B'", "0 is the first choice, A"]),
    "answer a choice": ({"answer": "b"}, ["`answer`", "'b'", "index"]),
    "answer below": ({"answer": -1}, ["`answer`", "-1", "index"]),
    "answer above": ({"answer": 2}, ["`answer`", "is 2", "index"]),
    "answer null": ({"answer": None}, ["`answer`", "null"]),
    "answer a list": ({"answer": [1]}, ["`answer`", "index"]),
    "question empty": ({"question": " "}, ["`question`", "empty"]),
    "question null": ({"question": None}, ["`question`", "null"]),
    "question a list": ({"question": ["a"]}, ["`question`", "list"]),
}


@pytest.mark.parametrize("name", sorted(BAD_CHOICES))
def test_an_item_whose_choices_cannot_be_scored(tmp_path: Path, name: str) -> None:
    change, fragments = BAD_CHOICES[name]
    path = put(tmp_path, lines(MC, {**MC, **change}))
    refused(choose, path, tmp_path / "out", "task `t`", "rows.jsonl, line 2", *fragments)
    if "equal" not in name:
        refused(benchmark, path, tmp_path / "out", "task `t`", "rows.jsonl, line 2", *fragments, name="arc_easy")


@pytest.mark.parametrize(
    ("name", "row", "field"),
    [
        ("sciq", {**MC, "support": None}, "support"),
        ("sciq", {**MC, "support": ["a"]}, "support"),
        ("logiqa", {**MC, "context": None}, "context"),
        ("logiqa", {**MC, "context": True}, "context"),
        ("commonsenseqa", {**MC, "choices": ["a", "b", "c", "d", None]}, "choices"),
        ("commonsenseqa", {**MC, "choices": ["a", "b", "c", "d", 5]}, "choices"),
        ("math500", {**PROBLEM, "answer": ["1"]}, "answer"),
        ("math500", {**PROBLEM, "answer": True}, "answer"),
        ("aime24", {**PROBLEM, "answer": None}, "answer"),
        ("aime24", {**PROBLEM, "problem": {"a": 1}}, "problem"),
    ],
)
def test_a_benchmarks_row_that_is_no_text(tmp_path: Path, name: str, row: dict[str, Any], field: str) -> None:
    path = put(tmp_path, lines(row))
    refused(benchmark, path, tmp_path / "out", "task `t`", "rows.jsonl, line 1", f"`{field}`", name=name)


# ------------------------------------------------------------------------------------------------- prompts

BAD_PROMPTS = {
    "{question} \\boxed{answer}": 'uses the answer field "answer"',
    "{question}{answer!r}": "plain name",
    "{question}{answer:>5}": "plain name",
    "{question:{answer}}": "plain name",
    "{solution}": 'uses the answer field "solution"',
    "Question:": "has no field",
    "{{question}}": "has no field",
    "{id.real.__class__}": "plain name",
    "{question[0]}": "plain name",
    "{choices[0]}": "plain name",
    "{question:>999999999}": "plain name",
    "{question": "braces",
    "question}": "braces",
    "{}": "plain name",
    "{0}": "plain name",
}


@pytest.mark.parametrize("prompt", sorted(BAD_PROMPTS))
@pytest.mark.parametrize("make", [generate, choose], ids=lambda f: f.__name__)
def test_a_tasks_prompt_that_cannot_be_used(tmp_path: Path, make: Any, prompt: str) -> None:
    path = put(tmp_path, lines({**MC, "solution": "s"} if make is choose else {**GOOD, "solution": "s"}))
    refused(make, path, tmp_path / "out", "task `t`, prompt", BAD_PROMPTS[prompt], prompt=prompt)


@pytest.mark.parametrize(
    ("value", "fragment"), [(None, "null"), (True, "true"), (["a"], "list"), ({}, "object"), ("\ud800", "surrogate")]
)
def test_a_prompts_field_without_text(tmp_path: Path, value: Any, fragment: str) -> None:
    path = put(tmp_path, lines({**GOOD, "context": "c"}, {**GOOD, "context": value}))
    settings = {"prompt": "{context}\n{question}"}
    refused(generate, path, tmp_path / "out", "rows.jsonl, line 2", "`context`", fragment, **settings)


def test_a_prompts_field_that_is_missing(tmp_path: Path) -> None:
    message = refused(generate, put(tmp_path, lines(GOOD)), tmp_path / "out", prompt="{context}\n{question}")
    assert re.search(r"rows\.jsonl, line 1: no field `context`; it has answer, question", message)


@pytest.mark.parametrize("row", [{"question": " ", "context": "c"}, {"question": "", "context": ""}])
def test_a_prompt_that_asks_nothing(tmp_path: Path, row: dict[str, str]) -> None:
    path = put(tmp_path, lines({**GOOD, **row}))
    refused(generate, path, tmp_path / "out", "line 1", "is empty", prompt="{context}\n{question}")


@pytest.mark.parametrize(
    ("prompt", "fragment"),
    [
        ("Solve:", "has no field"),
        ("{{problem}}", "has no field"),
        ("{problem} \\boxed{answer}", 'uses the answer field "answer"'),
        ("{problem} {id}", 'uses a field "id"'),
        ("{problem.__class__}", "plain name"),
        ("{problem:>999999999}", "plain name"),
        ("{problem} {", "braces"),
    ],
)
def test_the_problems_prompt_that_cannot_be_used(tmp_path: Path, prompt: str, fragment: str) -> None:
    path = put(tmp_path, lines(PROBLEM))
    refused(problems, path, tmp_path / "out", "problems.prompt", fragment, prompt=prompt)


@pytest.mark.parametrize("field", ["answer", "solution"])
def test_a_problem_that_is_its_own_answer(tmp_path: Path, field: str) -> None:
    path = put(tmp_path, lines(PROBLEM))
    refused(problems, path, tmp_path / "out", "problems.sources.0.problem", f"`{field}`", problem=field)


@pytest.mark.parametrize(
    ("make", "row"),
    [(generate, GOOD | {"target": "2"}), (generate, GOOD | {"target": 2}), (choose, MC | {"target": " b"})],
)
def test_a_field_that_is_the_answer_by_another_name(tmp_path: Path, make: Any, row: dict[str, Any]) -> None:
    path = put(tmp_path, lines(row, row))
    refused(make, path, tmp_path / "out", "task `t`", "`target`", "right answer", prompt="{question} {target}")


def test_a_field_that_is_the_answer_in_some_rows_is_no_leak(tmp_path: Path) -> None:
    rows = [GOOD | {"hint": "2"}, GOOD | {"hint": "3"}]
    generate(put(tmp_path, lines(*rows)), tmp_path / "out", prompt="{question} {hint}")


def test_a_text_that_is_to_be_said_again_is_no_leak(tmp_path: Path) -> None:
    generate(put(tmp_path, lines({"question": "x", "answer": "x"})), tmp_path / "out", prompt="Say {question}")
