"""In what order the jobs run, how long that takes and what is on disk meanwhile: a simulation of the run."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlgen.cluster.dag import Dag


@dataclass(frozen=True)
class Schedule:
    """One run of the jobs that are to be run."""

    seconds: float
    """From the first job's start to the last one's end."""
    critical: tuple[int, ...]
    """The longest chain of jobs, each waiting for the one before: what no number of nodes makes shorter."""
    critical_seconds: float
    peak_bytes: float
    """Most bytes on disk at a time, of those that the run itself writes."""
    ended: dict[int, float]
    """When each job ends."""


def simulate(
    dag: Dag, seconds: Mapping[int, float], written: Mapping[int, float], scratch: Mapping[int, float]
) -> Schedule:
    """Run the jobs as Snakemake would: whatever is ready and fits starts, what most hangs on first.

    All three say of a job's place what it takes: seconds, bytes that stay, bytes while it runs.
    """
    needed = dag.needed
    rest = _rest(dag, seconds)
    waiting = {place: sum(1 for needs in dag.jobs[place].needs if dag.jobs[needs].needed) for place in needed}
    readers: dict[int, list[int]] = {}
    for place in needed:
        for needs in dag.jobs[place].needs:
            readers.setdefault(needs, []).append(place)
    unread = {place: len(found) for place, found in readers.items()}
    ready = [(-rest[place], place) for place in needed if not waiting[place]]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now, disk, peak = 0.0, 0.0, 0.0
    ended: dict[int, float] = {}
    free = _Room(dag)
    while ready or running:
        held = []
        while ready and not free.full:
            entry = heapq.heappop(ready)
            place = entry[1]
            if not free.take(place):
                held.append(entry)
                continue
            heapq.heappush(running, (now + seconds[place], place))
            disk += written[place] + scratch[place]
            peak = max(peak, disk)
        for entry in held:
            heapq.heappush(ready, entry)
        now, place = heapq.heappop(running)
        ended[place] = now
        free.give(place)
        disk -= scratch[place]
        for needs in dag.jobs[place].needs:
            unread[needs] -= 1
            if not unread[needs] and dag.jobs[needs].temporary and needs in ended:
                disk -= written[needs]
        for reader in readers.get(place, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (-rest[reader], reader))
    chain = _critical(dag, rest)
    return Schedule(now, chain, rest[chain[0]] if chain else 0.0, peak, ended)


class _Room:
    """What jobs may take at a time. A job that asks for more than there is gets all there is, as Snakemake gives it."""

    def __init__(self, dag: Dag) -> None:
        self._dag = dag
        self._limits = {"cores": dag.cores, "slots": dag.slots, "gpus": dag.gpus}
        self._taken = dict.fromkeys(self._limits, 0)

    @property
    def full(self) -> bool:
        """Whether no job fits, whatever it asks for: each takes a thread and is one."""
        return any(
            limit is not None and self._taken[name] >= limit for name, limit in self._limits.items() if name != "gpus"
        )

    def _asks(self, place: int) -> dict[str, int]:
        job = self._dag.jobs[place]
        asked = {"cores": job.threads, "slots": 1, "gpus": job.gpus}
        return {name: min(asked[name], limit) for name, limit in self._limits.items() if limit is not None}

    def take(self, place: int) -> bool:
        """Whether a job fits; if so, it has its part."""
        asked = self._asks(place)
        limits = self._limits
        if any(self._taken[name] + count > (limits[name] or 0) for name, count in asked.items()):
            return False
        for name, count in asked.items():
            self._taken[name] += count
        return True

    def give(self, place: int) -> None:
        """A job has ended."""
        for name, count in self._asks(place).items():
            self._taken[name] -= count


def _rest(dag: Dag, seconds: Mapping[int, float]) -> dict[int, float]:
    """By job that is to be run: the longest chain from its start to the end of the run."""
    rest = {place: seconds[place] for place in dag.needed}
    after = dict.fromkeys(rest, 0.0)
    for place in reversed(dag.needed):  # each job comes after those that it needs
        rest[place] = seconds[place] + after[place]
        for needs in dag.jobs[place].needs:
            if needs in after:
                after[needs] = max(after[needs], rest[place])
    return rest


def _critical(dag: Dag, rest: Mapping[int, float]) -> tuple[int, ...]:
    chain: list[int] = []
    ready: Sequence[int] = dag.needed
    while ready:
        place = max(ready, key=lambda found: rest[found])
        chain.append(place)
        ready = [found for found in dag.needed if place in dag.jobs[found].needs]
    return tuple(chain)
