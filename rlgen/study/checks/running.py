"""What a rule's job is given."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from rlgen.study.checks.finding import Finding
from rlgen.study.study import Study

RULES = (
    *(
        "problems",
        "teacher",
        "task",
        "corpus",
        "pretrain",
        "sft",
        "grpo",
        "adopt",
        "perturb",
        "evaluate",
        "dump",
        "fit",
    ),
    *("diagnose", "attribute", "track", "localise", "intervene", "compare", "summary", "report"),
)
"""The workflow's rules that may be given resources of their own."""
SUBMITTED = ("sft", "grpo", "fit")
"""Those that submitit can submit: they can be shared by processes, and go on where they were."""


def check_resources(study: Study) -> Iterator[Finding]:
    """Names of rules that there are not, and launchers and nodes that a rule cannot have."""
    yield from _unknown_rules(study)
    for name, given in study.resources.items():
        if given.launcher == "submitit" and name not in SUBMITTED:
            remedy = f"give it to one of: {', '.join(SUBMITTED)}"
            yield Finding(f"resources.{name}.launcher", "`submitit` cannot submit this rule", remedy)
        if given.nodes > 1 and given.launcher != "submitit":
            yield Finding(
                f"resources.{name}.nodes", f"given {given.nodes}", "add `launcher: submitit`, or leave it out"
            )


def _unknown_rules(study: Study) -> Iterator[Finding]:
    known = ("default", *RULES)
    for name in study.resources:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            yield Finding(f"resources.{name}", f"no rule `{name}`", f"{hint}use one of: {', '.join(known)}")
