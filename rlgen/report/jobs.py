"""What the study's jobs cost and with what they ran, from the manifests of its artifacts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlgen.formats import MANIFEST
from rlgen.paths import Layout
from rlgen.stage import read_manifest
from rlgen.study.stages import SummarySettings
from rlgen.study.study import TEACHER


def find_jobs(settings: SummarySettings, paths: Layout) -> list[dict[str, Any]]:
    """One entry for each finished artifact that belongs to the study, in the order of the data's way."""
    jobs = []
    for artifact in _artifacts(settings, paths):
        if (artifact / MANIFEST).is_file():
            job = {"artifact": artifact.relative_to(paths.root).as_posix(), **read_manifest(artifact)}
            job["inputs"] = sorted(job.pop("inputs"))
            jobs.append(job)
    return jobs


def cost(jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summed wall time and highest memory by stage, versions that were used, and the jobs one by one."""
    wall: dict[str, float] = defaultdict(float)
    peak: dict[str, int] = defaultdict(int)
    versions: dict[str, set[str]] = defaultdict(set)
    for job in jobs:
        wall[job["stage"]] += job["wall_seconds"]
        peak[job["stage"]] = max(peak[job["stage"]], job["peak_memory_bytes"])
        for package, version in job["versions"].items():
            versions[package].add(version)
    kept = ("stage", "artifact", "wall_seconds", "peak_memory_bytes", "device", "seed", "settings", "inputs", "digest")
    return {
        "wall_seconds": {stage: round(seconds, 3) for stage, seconds in wall.items()},
        "peak_memory_bytes": dict(peak),
        "versions": {package: ", ".join(sorted(found)) for package, found in sorted(versions.items())},
        "git_commits": sorted({job["git_commit"] for job in jobs if job["git_commit"]}),
        "devices": sorted({job["device"] for job in jobs}),
        "jobs": [{key: job[key] for key in kept} for job in jobs],
    }


def _artifacts(settings: SummarySettings, paths: Layout) -> Iterator[Path]:
    """Folders of the study's own artifacts: what an earlier setting left behind is not counted."""
    if settings.problems:
        yield paths.problems
    if settings.taught:
        yield from (paths.model(TEACHER), paths.solutions)
    yield from (paths.task(task) for group in settings.groups.values() for task in group)
    yield paths.corpus
    joined = {model for models in settings.crosscoders.values() for model in models}
    models = [*settings.models, *sorted(joined - set(settings.models))]
    yield from (paths.model(model) for model in models)
    yield from (paths.evaluation(model) for model in models)
    for model, parts in settings.stores.items():
        yield from (paths.activations(model, part) for part in range(parts))
    for name in dict.fromkeys([*settings.crosscoders, *(fit for fits in settings.variants.values() for fit in fits)]):
        yield from (paths.crosscoder(name), paths.diagnostics(name), paths.attribution(name))
    yield from (paths.tracking(name) for name in settings.tracked)
    for fit in settings.localised:
        yield paths.localisation(fit)
        yield from (paths.intervention(fit, edit) for edit in settings.edits[fit])
    if settings.oracle:
        yield paths.comparison(settings.localised[0])
