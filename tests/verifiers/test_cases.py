"""`math`, judged by cases: one JSON object a line with gold, response, the right verdict and why."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlgen.verifiers import load_verifier

CASES = [
    pytest.param(json.loads(line), id=f"{path.stem}-{number}")
    for path in sorted((Path(__file__).parent / "cases").glob("*.jsonl"))
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
]


@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_judged_as_a_person_would(case: dict[str, Any]) -> None:
    found = load_verifier("math")(case["response"], case["gold"])
    assert found.right is case["right"], f"{case['why']}: {case['gold']!r} and {found.extracted!r}"
