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


def check_resources(study: Study) -> Iterator[Finding]:
    """Names of rules that there are not."""
    known = ("default", *RULES)
    for name in study.resources:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            yield Finding(f"resources.{name}", f"no rule `{name}`", f"{hint}use one of: {', '.join(known)}")
