"""Start-up times, each beside the bare interpreter's in the same run: `python tests/benchmarks/startup.py`.

A rule that needs no torch imports none, so that asking for help, checking a study or planning a run is instant.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNS = 7
SNAKEMAKE = [
    "-m",
    "snakemake",
    "--snakefile",
    str(ROOT / "workflow/Snakefile"),
    "--profile",
    str(ROOT / "profiles/local"),
]
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "rlgen --help": ["-m", "rlgen", "--help"],
    "rlgen config check": ["-m", "rlgen", "config", "check", str(ROOT / "config.yaml")],
    "snakemake --version": ["-m", "snakemake", "--version"],
    "snakemake -n (the whole DAG)": [*SNAKEMAKE, "--dry-run", "--quiet", "all"],
    "python -c 'import torch' (what is spared)": ["-c", "import torch"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, timeout=120)
    return time.perf_counter() - start


def main() -> None:
    """Run all commands in turn, so that a slow moment of the machine falls on all of them."""
    for arguments in COMMANDS.values():
        seconds(arguments)
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, arguments in COMMANDS.items():
            found[name].append(seconds(arguments))
    bare = statistics.median(found["python -c pass"])
    print(f"| command | median of {RUNS}, s | least | times `python -c pass` |\n|---|---|---|---|")
    for name, times in found.items():
        median = statistics.median(times)
        print(f"| `{name}` | {median:.2f} | {min(times):.2f} | {median / bare:.0f} |")


if __name__ == "__main__":
    main()
