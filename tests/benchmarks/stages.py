"""Time and memory of a finished run by stage, as Snakemake measured them.

`python tests/benchmarks/stages.py results/mini`. Jobs run beside one another, so the seconds add up to more than the
run took; say that by a watch.
"""

import csv
import sys
from itertools import chain
from pathlib import Path


def main(root: Path) -> None:
    """Print the README's table."""
    jobs: dict[str, list[dict[str, str]]] = {}
    for file in sorted((root / "benchmarks").rglob("*.tsv")):
        stage = file.relative_to(root / "benchmarks").parts[0].removesuffix(".tsv")
        with file.open() as lines:
            jobs.setdefault(stage, []).extend(csv.DictReader(lines, delimiter="\t"))
    print("| stage | jobs | seconds, all jobs | CPU seconds | peak memory of a job, GB |\n|---|---|---|---|---|")
    by_time = sorted(jobs.items(), key=lambda item: -total(item[1], "s"))
    for stage, rows in [*by_time, ("all", list(chain(*jobs.values())))]:
        memory = max(float(row["max_rss"]) for row in rows if row["max_rss"] not in ("-", "NA")) / 1000
        print(f"| {stage} | {len(rows)} | {total(rows, 's'):.0f} | {total(rows, 'cpu_time'):.0f} | {memory:.2f} |")


def total(rows: list[dict[str, str]], column: str) -> float:
    """Sum of a column; jobs too short to be measured count nothing."""
    return sum(float(row[column]) for row in rows if row[column] not in ("-", "NA"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
