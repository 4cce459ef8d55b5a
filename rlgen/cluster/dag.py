"""The jobs of a study as Snakemake sees them: the DAG of its dry-run, as plain data."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlgen.errors import StudyError
from rlgen.study import Study, read_document


@dataclass(frozen=True)
class Job:
    """One job of the DAG."""

    rule: str
    wildcards: dict[str, str]
    output: tuple[str, ...]
    temporary: bool
    """Whether Snakemake deletes its output as soon as nothing needs it any more."""
    benchmark: Path | None
    """Where Snakemake writes down how long it took."""
    threads: int
    limit: int
    """Minutes that it may take."""
    gpus: int
    """Of all its nodes."""
    requeued: bool
    """Whether it goes on after its time limit (submitit)."""
    needed: bool
    """Whether it is to be run."""
    reason: str
    """Why; empty if it is not."""
    needs: tuple[int, ...]
    """The jobs whose output it reads, as places in the DAG's list."""

    @property
    def name(self) -> str:
        """The rule, with what tells its jobs apart."""
        return " ".join([self.rule, *self.wildcards.values()])


@dataclass(frozen=True)
class Dag:
    """All jobs of a study, each after those that it needs, and what they may take together."""

    study: Study
    jobs: list[Job]
    cores: int | None = None
    """Threads at a time, of jobs that run where Snakemake does; None: any number."""
    slots: int | None = None
    """Jobs at a time, where a scheduler runs them; None: no scheduler does."""
    gpus: int | None = None
    """GPUs at a time (`--resources gpu=N`); None: any number."""

    @cached_property
    def needed(self) -> list[int]:
        """Places of the jobs that are to be run."""
        return [place for place, job in enumerate(self.jobs) if job.needed]


def read_dag(arguments: Sequence[str]) -> Dag:
    """The DAG that `snakemake <arguments> --dry-run` would show.

    Raises StudyError if the study cannot be run, with the message that Snakemake would give. Snakemake is asked by its
    own parser and API, down to the DAG itself, which it does not hand out: a new version of it may need changes here.
    """
    from snakemake import api
    from snakemake.cli import parse_args, parse_config
    from snakemake.exceptions import CliException, WorkflowError
    from snakemake.settings.enums import Quietness

    logging.getLogger("snakemake").propagate = False  # its own handlers are told to be quiet
    limit = getattr(sys, "tracebacklimit", None)  # which the Snakefile sets, for a study that is refused
    try:
        _, args = parse_args([*arguments, "--dry-run"])
        for file in args.configfile or []:
            read_document(Path(file))  # before Snakemake does, which is slow or fails on what is no plain YAML
        with api.SnakemakeApi(api.OutputSettings(quiet={Quietness.ALL})) as snakemake:
            workflow_api = snakemake.workflow(
                resource_settings=api.ResourceSettings(
                    cores=args.cores or 1,
                    nodes=args.jobs,
                    max_threads=args.max_threads,
                    resources=args.resources,
                    overwrite_threads=args.set_threads,
                    overwrite_resources=args.set_resources,
                    default_resources=args.default_resources,
                ),
                config_settings=api.ConfigSettings(
                    config=parse_config(args.config), configfiles=args.configfile, config_args=args.config
                ),
                workflow_settings=api.WorkflowSettings(),
                snakefile=args.snakefile,
                workdir=args.directory,
            )
            workflow_api.dag(
                api.DAGSettings(
                    targets=args.targets,
                    forcetargets=args.force,
                    forceall=args.forceall,
                    forcerun=args.forcerun,
                    until=args.until,
                    omit_from=args.omit_from,
                    force_incomplete=args.rerun_incomplete,
                    rerun_triggers=args.rerun_triggers,
                )
            )
            workflow = workflow_api._workflow
            workflow._prepare_dag(forceall=args.forceall, ignore_incomplete=True, lock_warn_only=True, nolock=True)
            workflow._build_dag()
            study = workflow.globals["study"]
            jobs = _jobs(workflow.dag, study)
    except (WorkflowError, CliException) as error:
        raise StudyError(str(error)) from None
    finally:
        sys.tracebacklimit = limit
    local = args.executor in (None, "local")
    gpus = getattr((args.resources or {}).get("gpu"), "value", None)
    return Dag(
        study=study,
        jobs=jobs,
        cores=args.cores or 1 if local else None,
        slots=None if local else args.jobs,
        gpus=None if gpus is None else int(gpus),
    )


def _jobs(dag: Any, study: Study) -> list[Job]:
    """Snakemake's jobs without the targets' own, which do nothing."""
    from snakemake.io import is_flagged

    asked = set(dag.bfs(dag.dependencies, *dag.targetjobs))  # with --until, fewer than there are
    levels = [sorted(level, key=lambda job: (job.rule.name, str(job.output))) for level in dag.toposorted(asked)]
    ordered = [job for level in levels for job in level if not job.is_norun and job.output]
    places = {job: place for place, job in enumerate(ordered)}
    return [
        Job(
            rule=job.rule.name,
            wildcards=dict(job.wildcards_dict),
            output=tuple(map(str, job.output)),
            temporary=any(is_flagged(file, "temp") for file in job.output),
            benchmark=Path(str(job.benchmark)) if job.benchmark else None,
            threads=job.threads,
            limit=int(job.resources.get("runtime", 0) or 0),
            gpus=int(job.resources.get("gpu", 0) or 0) * study.resources_of(job.rule.name).nodes,
            requeued=study.resources_of(job.rule.name).launcher == "submitit",
            needed=dag.needrun(job),
            reason=_plain(str(dag.reason(job))) if dag.needrun(job) else "",
            needs=tuple(sorted(places[needed] for needed in dag.dependencies[job] if needed in places)),
        )
        for job in ordered
    ]


def _plain(reason: str) -> str:
    """A reason without the files it is about, which the rule's name says already."""
    return re.sub(r"(: | by job: ).*", "", reason.splitlines()[0]) if reason else ""
