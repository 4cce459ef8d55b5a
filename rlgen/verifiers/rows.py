"""Rows of golds and responses, judged: what `rlgen answers` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlgen.data.jsonl import Row, read_rows
from rlgen.errors import StudyError
from rlgen.verifiers import load_verifier

_SHOWN = 60


@dataclass(frozen=True)
class Judged:
    """One row and its verdict."""

    number: int
    """Line of the file; the first is 1."""
    gold: str
    extracted: str | None
    verdict: bool
    right: bool | None
    """What the row says that the verdict should be, if it says so."""
    unverifiable: str | None
    """Why responses cannot be judged reliably by the gold, if they cannot."""

    @property
    def disagrees(self) -> bool:
        """Whether the verdict is not what the row says."""
        return self.right is not None and self.right != self.verdict

    def as_json(self) -> dict[str, Any]:
        """Return the row as `--json` prints it."""
        found = {"line": self.number, "gold": self.gold, "extracted": self.extracted, "verdict": self.verdict}
        found |= {"unverifiable": self.unverifiable} if self.unverifiable else {}
        return found | ({} if self.right is None else {"right": self.right})

    def line(self) -> str:
        """Return the row as a line for a person."""
        read = "no answer" if self.extracted is None else f"read {_cut(self.extracted)}"
        said = f"line {self.number}: {'right' if self.verdict else 'wrong'}; {read}, gold {_cut(self.gold)}"
        if self.unverifiable:
            said += f"; `problems.unverifiable` would refuse this gold: {self.unverifiable}"
        if self.disagrees:
            said += f"; DISAGREES: the row says {'right' if self.right else 'wrong'}"
        return said


def judge_rows(path: Path, verifier: str) -> Iterator[Judged]:
    """Judge the rows of a JSONL file.

    Args:
        path: Rows {gold, response}, both text, and `right`, true or false, if it is known.
        verifier: As `load_verifier` takes it.

    Raises:
        StudyError: The file, the verifier or a row is bad; file, line and field are named.
    """
    judge = load_verifier(verifier)
    if not path.is_file():
        raise StudyError(f"{path}: no such file; give a JSONL file with rows {{gold, response}}")
    for row in read_rows(path):
        gold, response, right = _text(row, "gold"), _text(row, "response"), row.values.get("right")
        if not gold.strip():
            raise StudyError(f"{row.where}: field `gold` is empty; give the right answer")
        if not (right is None or isinstance(right, bool)):
            raise StudyError(f"{row.where}: field `right` is {_cut(right)}; write true or false, or leave it out")
        found = judge(response, gold)
        yield Judged(row.number, gold, found.extracted, found.right, right, judge.unverifiable(gold))


def _text(row: Row, field: str) -> str:
    if field not in row.values:
        raise StudyError(f"{row.where}: no field `{field}`; it has {', '.join(sorted(row.values)) or 'none'}")
    value = row.values[field]
    if not isinstance(value, str):
        raise StudyError(f"{row.where}: field `{field}` is {_cut(value)}; write it as text, in quotes")
    return value


def _cut(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
