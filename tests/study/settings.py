"""A good study's settings, and ways to spoil them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlgen.errors import StudyError
from rlgen.study import parse_study

ROOT = Path(__file__).parents[2]
GOOD = yaml.safe_load((ROOT / "config.yaml").read_text())

Change = Callable[[dict[str, Any]], Any]


def put(path: str, value: Any) -> Change:
    """Set the value at a dotted path; numbers are list indices."""

    def change(settings: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = settings
        for step in parents:
            target = target[int(step) if step.isdigit() else step]
        target[int(last) if last.isdigit() else last] = value

    return change


def put_all(values: dict[str, Any]) -> Change:
    """Set the values at several dotted paths."""

    def change(settings: dict[str, Any]) -> None:
        for path, value in values.items():
            put(path, value)(settings)

    return change


def refusal(change: Change) -> str:
    """Return the message by which the good study is refused after a change. Fails the test if it is not."""
    settings = copy.deepcopy(GOOD)
    change(settings)
    with pytest.raises(StudyError) as caught:
        parse_study(settings)
    return str(caught.value)


def assert_refused(change: Change, key: str, remedy: str) -> None:
    """Assert that a change is refused with the key's path and the remedy."""
    found = refusal(change)
    assert f"  {key}: " in found
    assert remedy in found.partition(f"  {key}: ")[2]
    assert "remedy:" in found
