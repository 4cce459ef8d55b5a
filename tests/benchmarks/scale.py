"""How long planning a study of more than 2,000 jobs takes, and telling its status: `python tests/benchmarks/scale.py`.

Wall and CPU seconds of single processes, before anything of the study is there and when all of it is (made up).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.workflow.made_up import make_up  # noqa: E402
from tests.workflow.study_run import command, environment  # noqa: E402

LARGE = ROOT / "tests/studies/large.yaml"
RUNS = 3


def seconds(arguments: list[str], work: Path) -> tuple[float, float]:
    """Wall and CPU time of one process."""
    start, before = time.perf_counter(), os.times()
    subprocess.run(arguments, cwd=work, env=environment(), check=True, capture_output=True, timeout=300)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def measure(what: str, arguments: list[str], work: Path) -> None:
    """Print the least times of some runs: what else the machine does only adds to them."""
    wall, cpu = map(min, zip(*(seconds(arguments, work) for _ in range(RUNS)), strict=True))
    print(f"| {what} | {wall:.1f} | {cpu:.1f} |", flush=True)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        dry_run = [*command(work, LARGE), "--dry-run"]
        status = [sys.executable, "-m", "rlgen", "status", "--configfile", str(LARGE)]
        print(f"| least of {RUNS} | wall, s | CPU, s |\n|---|---|---|")
        measure("`snakemake -n`, nothing is there", dry_run, work)
        measure("`rlgen status`, nothing is there", status, work)
        jobs = len(make_up(work, LARGE))
        measure(f"`snakemake -n`, all {jobs:,} artifacts are there", dry_run, work)
        measure("`rlgen status`, all are there", status, work)


if __name__ == "__main__":
    main()
