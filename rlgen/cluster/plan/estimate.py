"""The plan of a study: its DAG, the cost model and what earlier runs took, put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlgen.cluster.dag import Dag, Job
from rlgen.cluster.plan.costs import Costs
from rlgen.cluster.plan.measured import factors, overall
from rlgen.cluster.plan.schedule import Schedule, simulate
from rlgen.cluster.plan.work import Machine, Work

HOUR = 3600.0


@dataclass(frozen=True)
class RulePlan:
    """What all jobs of a rule that are to be run take together."""

    rule: str
    jobs: int
    """To be run."""
    done: int
    """Not to be run."""
    reasons: dict[str, int]
    """Why they are to be run, each with its number of jobs."""
    seconds: float
    longest: float
    """Seconds of the longest job."""
    limit: int
    """Minutes that a job may take."""
    requeued: bool
    """Whether a job goes on after its time limit."""
    gpus: int
    """Of a job."""
    gpu_hours: float
    core_hours: float
    written: float
    """Bytes."""
    memory: float
    """Bytes on each GPU, of the job that takes most; 0 for jobs without GPUs."""
    factor: float | None
    """What measured jobs took, as a multiple of the model's; None if none was measured."""


class Plan:
    """What the jobs of a DAG that are to be run will cost."""

    def __init__(
        self,
        dag: Dag,
        machine: Machine,
        *,
        share: float = 0.3,
        like: Sequence[Dag] = (),
        configs: Mapping[str, Path] | None = None,
        wait: float = 0.0,
    ) -> None:
        """`share`: mean length of answers, of the longest; `like`: DAGs of studies whose benchmark files are believed;
        `configs`: config.json by a model's path; `wait`: seconds a job waits in the scheduler's queue."""
        self.dag, self.machine, self.share, self.wait = dag, machine, share, wait
        costs = Costs(dag.study, machine, share, configs)
        self._work = {place: costs.of(dag.jobs[place]) for place in range(len(dag.jobs))}
        known = [(job, costs.seconds(job, self._work[place])) for place, job in enumerate(dag.jobs)]
        for other in like:
            of_other = Costs(other.study, machine, share, configs)
            known += [(job, of_other.seconds(job, of_other.of(job))) for job in other.jobs]
        self.factors = factors(known)
        usual = overall(self.factors)
        self.seconds = {
            place: known[place][1] * self.factors.get(dag.jobs[place].rule, usual) for place in range(len(dag.jobs))
        }

    @cached_property
    def schedule(self) -> Schedule:
        """The run at the parallelism that the profile allows."""
        waited = {place: seconds + self.wait for place, seconds in self.seconds.items()}
        written = {place: work.written for place, work in self._work.items()}
        scratch = {place: work.scratch for place, work in self._work.items()}
        return simulate(self.dag, waited, written, scratch)

    @cached_property
    def rules(self) -> list[RulePlan]:
        """By rule, in the order in which the data goes; rules with nothing to do are at 0 jobs."""
        by_rule: dict[str, list[int]] = {}
        for place, job in enumerate(self.dag.jobs):
            by_rule.setdefault(job.rule, []).append(place)
        return [self._rule(rule, places) for rule, places in by_rule.items()]

    def _rule(self, rule: str, places: list[int]) -> RulePlan:
        needed = [place for place in places if self.dag.jobs[place].needed]
        jobs: list[Job] = [self.dag.jobs[place] for place in needed]
        work: list[Work] = [self._work[place] for place in needed]
        seconds = [self.seconds[place] for place in needed]
        taken = list(zip(jobs, seconds, strict=True))
        return RulePlan(
            rule=rule,
            jobs=len(needed),
            done=len(places) - len(needed),
            reasons=dict(Counter(job.reason for job in jobs)),
            seconds=sum(seconds),
            longest=max(seconds, default=0.0),
            limit=max((job.limit for job in jobs), default=0),
            requeued=any(job.requeued for job in jobs),
            gpus=max((job.gpus for job in jobs), default=0),
            gpu_hours=sum(job.gpus * each for job, each in taken) / HOUR,
            core_hours=sum(job.threads * each for job, each in taken) / HOUR,
            written=sum(each.written for each in work),
            memory=max((each.memory for job, each in zip(jobs, work, strict=True) if job.gpus), default=0.0),
            factor=self.factors.get(rule),
        )

    @property
    def gpu_hours(self) -> float:
        """Of all jobs."""
        return sum(rule.gpu_hours for rule in self.rules)

    @property
    def written(self) -> float:
        """Bytes that all jobs leave on disk."""
        return sum(rule.written for rule in self.rules)

    @property
    def warnings(self) -> list[str]:
        """What will not go as it stands, with the setting to change."""
        found = []
        for rule in self.rules:
            if not rule.requeued and rule.limit and rule.longest > 60 * rule.limit:
                hours = f"{rule.longest / HOUR:.1f} h"
                found.append(
                    f"resources.{rule.rule}.runtime: a job takes about {hours} and may take {rule.limit / 60:.1f} h"
                )
            if rule.memory > self.machine.memory:
                found.append(
                    f"{rule.rule}: about {rule.memory / 1e9:.0f} GB on each GPU, and a {self.machine.name} has "
                    f"{self.machine.memory / 1e9:.0f}"
                )
        return found

    def as_json(self, price: float | None = None) -> dict[str, Any]:
        """Everything by name; `price` is of a GPU-hour."""
        return {
            "study": self.dag.study.study,
            "machine": self.machine.name,
            "answer_length": self.share,
            "parallel": {"cores": self.dag.cores, "jobs": self.dag.slots, "gpus": self.dag.gpus},
            "rules": [vars(rule) for rule in self.rules],
            "total": {
                "jobs": sum(rule.jobs for rule in self.rules),
                "gpu_hours": self.gpu_hours,
                "core_hours": sum(rule.core_hours for rule in self.rules),
                "wall_seconds": self.schedule.seconds,
                "critical_seconds": self.schedule.critical_seconds,
                "written_bytes": self.written,
                "peak_bytes": self.schedule.peak_bytes,
                "price": None if price is None else price * self.gpu_hours,
            },
            "critical_path": [self.dag.jobs[place].name for place in self.schedule.critical],
            "measured_rules": sorted(self.factors),
            "warnings": self.warnings,
        }
