"""`rlgen answers`: rows in, verdicts out."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlgen.cli import app
from rlgen.errors import StudyError

CASES = Path(__file__).parent / "cases" / "answers.jsonl"


def answers(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["answers", *map(str, words)])


def test_verdicts_are_those_that_the_rows_expect() -> None:
    found = answers(CASES, "--json")
    assert found.exit_code == 0
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["verdict"] for row in rows] == [json.loads(line)["right"] for line in CASES.read_text().splitlines()]
    assert rows[0]["extracted"] == "7"


def test_a_verdict_that_disagrees_is_named(tmp_path: Path) -> None:
    rows = [{"gold": "4", "response": "\\boxed{4}"}, {"gold": "4", "response": "\\boxed{5}", "right": True}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = answers(file)
    assert found.exit_code == 1
    assert 'line 1: right; read "4", gold "4"' in found.output
    assert 'line 2: wrong; read "5", gold "4"; DISAGREES: the row says right' in found.output
    assert "1 of 1 verdicts are not what `right` says; lines 2" in found.output
    assert answers(file, "--verifier", "text").exit_code == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"response": "4"}', r"rows.jsonl, line 2: no field `gold`"),
        ('{"gold": "4"}', r"line 2: no field `response`"),
        ('{"gold": 4, "response": "4"}', r"line 2: field `gold` is 4; write it as text"),
        ('{"gold": null, "response": "4"}', r"line 2: field `gold` is null"),
        ('{"gold": " ", "response": "4"}', r"line 2: field `gold` is empty"),
        ('{"gold": "4", "response": ["4"]}', r"line 2: field `response`"),
        ('{"gold": "4", "response": "4", "right": "yes"}', r"line 2: field `right` is \"yes\"; write true or false"),
        ("[]", r"line 2: not a JSON object"),
        ("{", r"line 2: not JSON"),
    ],
)
def test_a_bad_row_is_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"gold": "4", "response": "4"}\n' + line + "\n")
    error = answers(file).exception
    assert isinstance(error, StudyError)
    with pytest.raises(StudyError, match=message):
        raise error


def test_no_file_and_no_verifier_are_said(tmp_path: Path) -> None:
    assert "no such file" in str(answers(tmp_path / "none.jsonl").exception)
    assert "there is no `maths`" in str(answers(CASES, "--verifier", "maths").exception)
