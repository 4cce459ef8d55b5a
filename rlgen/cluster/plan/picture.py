"""The DAG of rules as a picture: what costs most is darkest."""

from __future__ import annotations

from itertools import pairwise

from rlgen.cluster.plan.estimate import Plan, RulePlan
from rlgen.cluster.plan.text import duration, size
from rlgen.report.svg import Canvas, colour, standalone

_WIDTH, _HEIGHT, _ACROSS, _DOWN, _EDGE = 150.0, 50.0, 24.0, 34.0, 16.0


def draw(plan: Plan) -> str:
    """An SVG with a box a rule: its jobs, GPU-hours (or core-hours) and bytes; arrows are bold on the longest chain."""
    edges = _edges(plan)
    rows = _rows([rule.rule for rule in plan.rules], edges)
    widest = max(map(len, rows))
    canvas = Canvas(
        2 * _EDGE + widest * (_WIDTH + _ACROSS) - _ACROSS,
        2 * _EDGE + len(rows) * (_HEIGHT + _DOWN) - _DOWN,
        f"What the rules of {plan.dag.study.study} cost",
    )
    canvas.rect(0, 0, canvas.width, canvas.height, "paper")
    corners = {
        rule: (
            _EDGE + (column + (widest - len(row)) / 2) * (_WIDTH + _ACROSS),
            _EDGE + line * (_HEIGHT + _DOWN),
        )
        for line, row in enumerate(rows)
        for column, rule in enumerate(row)
    }
    chain = [plan.dag.jobs[place].rule for place in plan.schedule.critical]
    bold = set(pairwise(chain))
    for source, target in sorted(edges):
        (x1, y1), (x2, y2) = corners[source], corners[target]
        start, end = (x1 + _WIDTH / 2, y1 + _HEIGHT), (x2 + _WIDTH / 2, y2)
        longest = (source, target) in bold
        canvas.line(start, end, "ink" if longest else "band", 2 if longest else 1)
    most = max((_cost(plan, rule) for rule in plan.rules), default=0.0)
    for rule in plan.rules:
        _box(canvas, plan, rule, corners[rule.rule], most)
    return standalone(canvas.svg())


def _box(canvas: Canvas, plan: Plan, rule: RulePlan, corner: tuple[float, float], most: float) -> None:
    x, y = corner
    share = _cost(plan, rule) / most if most else 0.0
    canvas.rect(x, y, _WIDTH, _HEIGHT, "paper", rx=6)
    tint = 0.75 * share**0.5 if rule.jobs else 0
    canvas.rect(x, y, _WIDTH, _HEIGHT, "m1", rx=6, fill_opacity=tint, stroke=colour("soft"))
    middle = x + _WIDTH / 2
    jobs = f"{rule.rule} x {rule.jobs}" if rule.jobs else f"{rule.rule}: done"
    canvas.text((middle, y + 20), jobs, 13, "ink", text_anchor="middle")
    hours = f"{rule.gpu_hours:,.1f} GPU-h" if rule.gpus else duration(rule.seconds)
    written = f", {size(rule.written)}" if rule.written >= 1e6 else ""
    if rule.jobs:
        canvas.text((middle, y + 37), hours + written, 11, "ink", text_anchor="middle")


def _cost(plan: Plan, rule: RulePlan) -> float:
    return rule.gpu_hours if plan.gpu_hours else rule.core_hours


def _edges(plan: Plan) -> set[tuple[str, str]]:
    """Between rules, without those that a longer way makes superfluous."""
    jobs = plan.dag.jobs
    edges = {(jobs[needs].rule, job.rule) for job in jobs for needs in job.needs if jobs[needs].rule != job.rule}
    behind: dict[str, set[str]] = {}

    def reached(rule: str) -> set[str]:
        if rule not in behind:
            following = {target for source, target in edges if source == rule}
            behind[rule] = following.union(*map(reached, following))
        return behind[rule]

    return {
        (source, target)
        for source, target in edges
        if not any(target in reached(other) for start, other in edges if start == source and other != target)
    }


def _rows(rules: list[str], edges: set[tuple[str, str]]) -> list[list[str]]:
    """Rules by their distance from the start, by the longest way."""
    depth: dict[str, int] = {}

    def depth_of(rule: str) -> int:
        if rule not in depth:
            depth[rule] = 1 + max((depth_of(source) for source, target in edges if target == rule), default=-1)
        return depth[rule]

    rows: list[list[str]] = [[] for _ in range(1 + max(map(depth_of, rules)))]
    for rule in rules:
        rows[depth[rule]].append(rule)
    return rows
