"""A plan as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from rlgen.cluster.plan.estimate import HOUR, Plan, RulePlan

_HEADS = ("rule", "jobs", "longest", "GPU-hours", "core-hours", "written", "GPU memory", "by", "why")


def lines(plan: Plan, price: float | None = None) -> Iterator[str]:
    """A row a rule, the totals, the longest chain of jobs, and what will not go."""
    if not plan.dag.needed:
        yield f"{plan.dag.study.study}: nothing is to be done"
        return
    yield from _table([_HEADS, *(_row(rule) for rule in plan.rules if rule.jobs)])
    yield ""
    schedule = plan.schedule
    jobs = len(plan.dag.needed)
    done = len(plan.dag.jobs) - jobs
    yield f"{jobs} jobs, {done} done; GPUs of kind {plan.machine.name}, answers {plan.share:.0%} of the longest"
    cost = f", {price * plan.gpu_hours:,.0f} at {price:g} a GPU-hour" if price is not None else ""
    yield f"GPU-hours   {plan.gpu_hours:,.1f}{cost}"
    yield f"wall time   {duration(schedule.seconds)} {_parallel(plan)}"
    chain = " > ".join(plan.dag.jobs[place].name for place in schedule.critical)
    yield f"at least    {duration(schedule.critical_seconds)}, whatever runs beside it: {chain}"
    yield f"disk        {size(plan.written)} written, at most {size(schedule.peak_bytes)} at a time"
    yield f"based on    {_basis(plan)}"
    for warning in plan.warnings:
        yield f"warning: {warning}"


def _row(rule: RulePlan) -> tuple[str, ...]:
    reasons = ", ".join(
        f"{reason} ({count})" if len(rule.reasons) > 1 else reason for reason, count in rule.reasons.items()
    )
    return (
        rule.rule,
        str(rule.jobs),
        duration(rule.longest),
        f"{rule.gpu_hours:,.1f}" if rule.gpus else "-",
        f"{rule.core_hours:,.1f}",
        size(rule.written),
        size(rule.memory) if rule.memory else "-",
        "model" if rule.factor is None else "measured",
        reasons[:1].lower() + reasons[1:],
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    text = {0, len(_HEADS) - 2, len(_HEADS) - 1}
    for row in rows:
        cells = [
            cell.ljust(width) if column in text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _parallel(plan: Plan) -> str:
    dag = plan.dag
    found = [
        f"{count} {name}"
        for name, count in (("threads", dag.cores), ("jobs", dag.slots), ("GPUs", dag.gpus))
        if count is not None
    ]
    waits = f", each waiting {duration(plan.wait)} for its start" if plan.wait else ""
    return f"with {', '.join(found)} at a time{waits}" if found else ""


def _basis(plan: Plan) -> str:
    measured = [rule.rule for rule in plan.rules if rule.jobs and rule.factor is not None]
    if not measured:
        return "the cost model alone: no job of this study, or of one given by --like, has been measured"
    rest = sum(1 for rule in plan.rules if rule.jobs and rule.factor is None)
    return f"benchmark files of {len(measured)} rules" + (f"; the model for {rest} others" if rest else "")


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for unit, length in (("d", 24 * HOUR), ("h", HOUR), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes, in units of a thousand."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count:.0f} B"
