"""`rlgen answers`: how a verifier judges one's own answers, before they are paid for by a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def answers(
    file: Annotated[Path, typer.Argument(help="JSONL rows {gold, response}, and `right` (true or false) if known.")],
    verifier: Annotated[
        str, typer.Option(help="math, text, choice, number, or your own package.module:function.")
    ] = "math",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON object a row: line, gold, extracted, verdict, and `right` if given."),
    ] = False,
) -> None:
    """Judge the answers of a file; print what is read as the answer, and whether it is right.

    Exits with 1 if a verdict is not what the row's `right` says.
    """
    import json

    from rlgen.verifiers.rows import judge_rows

    judged = list(judge_rows(file, verifier))
    for row in judged:
        typer.echo(json.dumps(row.as_json(), ensure_ascii=False) if as_json else row.line())
    right, wrong = sum(row.verdict for row in judged), [row for row in judged if row.disagrees]
    told = sum(row.right is not None for row in judged)
    if not as_json:
        typer.echo(f"{file}: {right} of {len(judged)} answers right, by verifier `{verifier}`")
    if wrong:
        where = ", ".join(str(row.number) for row in wrong[:20]) + (", ..." if len(wrong) > 20 else "")
        typer.echo(f"{file}: {len(wrong)} of {told} verdicts are not what `right` says; lines {where}", err=True)
        raise typer.Exit(1)
