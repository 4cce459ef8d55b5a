"""A study's status as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rlgen.cluster.status import STATES, Standing

_SHOWN = 3
"""Artifacts of a rule that are named, of those in the same state for the same reason."""


def as_json(standings: Sequence[Standing]) -> dict[str, Any]:
    """Counts by state, and every artifact."""
    counts = Counter(standing.state for standing in standings)
    rows = [
        {
            "rule": standing.artifact.rule,
            "name": standing.artifact.name,
            "path": str(standing.artifact.path),
            "state": standing.state,
            "note": standing.note,
            "log": list(standing.lines),
        }
        for standing in standings
    ]
    return {"counts": {state: counts[state] for state in STATES}, "artifacts": rows}


def as_text(standings: Sequence[Standing]) -> Iterator[str]:
    """A table of counts by rule, and below it what is neither done nor waiting to be made for the first time."""
    counts = Counter((standing.artifact.rule, standing.state) for standing in standings)
    states = [state for state in STATES if any(state == found for _, found in counts)]
    rules = list(dict.fromkeys(standing.artifact.rule for standing in standings))
    width = max(map(len, [*rules, "rule"]))
    yield f"{'rule':{width}}" + "".join(f"{state:>{len(state) + 2}}" for state in states)
    for rule in rules:
        cells = [f"{counts[rule, state] or '':>{len(state) + 2}}" for state in states]
        yield f"{rule:{width}}{''.join(cells)}".rstrip()
    for state in ("running", "failed", "interrupted", "outdated", "stale"):
        found = [standing for standing in standings if standing.state == state]
        if found:
            yield from ["", f"{state}:", *_listed(found)]
    unknown = sum(standing.unknown for standing in standings)
    if unknown:
        yield f"\n{unknown} of those done do not say by what code they were made"


def _listed(standings: Sequence[Standing]) -> Iterator[str]:
    """The first few of each rule, and how many more there are."""
    for rule, of_rule in groupby(standings, key=lambda standing: standing.artifact.rule):
        found = list(of_rule)
        for standing in found[:_SHOWN]:
            note = f": {standing.note}" if standing.note else ""
            yield f"  {rule} {standing.artifact.name}".rstrip() + note
            yield from (f"      {line}" for line in standing.lines)
        if len(found) > _SHOWN:
            yield f"  {rule}: {len(found) - _SHOWN} more"
