"""Every stage, killed at random moments and run again, makes the same bytes as a run left in peace."""

import os
import random
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.study_run import TINY, contents, environment, snakemake

pytestmark = pytest.mark.slow

KILLS = 5
STAGES = (
    "problems", "task", "corpus", "pretrain", "sft", "grpo", "perturb", "evaluate", "dump", "fit", "diagnose",
    "attribute", "track", "localise", "intervene", "compare", "report",
)  # fmt: skip


@pytest.fixture(scope="module")
def said(finished: Path) -> str:
    """What a dry-run of everything prints, every rule's command with it."""
    return snakemake(finished, TINY, "--dry-run", "--printshellcmds", "--forceall")


def stage_command(said: str, finished: Path, stage: str, out: Path) -> tuple[list[str], Path]:
    """The stage's command, as its rule runs it, with another output; and where the rule's own output is."""
    shell = next(line for line in said.splitlines() if line.startswith(f"Shell command: rlgen {stage} "))
    words = shlex.split(shell.removeprefix("Shell command: ").partition(" > ")[0])
    place = words.index("--out") + 1
    original = finished / words[place]
    words[place] = str(out)
    return words, original


def run(words: list[str], cwd: Path, kill_after: float | None = None) -> bool:
    """Run a stage; returns whether it ended by itself."""
    env = {**environment(), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=kill_after or 300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    assert process.returncode == 0, said[-4000:]
    return True


@pytest.mark.parametrize("stage", STAGES)
def test_killed_stage_ends_with_the_same_bytes(stage: str, said: str, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "artifact"
    words, original = stage_command(said, finished, stage, out)
    start = time.monotonic()
    assert run(words, finished)
    undisturbed = time.monotonic() - start
    expected = contents(out, str(out))
    assert expected == contents(original, str(original.relative_to(finished))), (
        "an undisturbed rerun differs from the run by Snakemake"
    )
    subprocess.run(["rm", "-rf", str(out)], check=True)

    moments, kills = random.Random(stage), 0
    while kills < KILLS:
        if run(words, finished, kill_after=moments.uniform(0.2, 1.0) * undisturbed):
            subprocess.run(["rm", "-rf", str(out)], check=True)  # it was done before the blow fell
        else:
            kills += 1
    assert run(words, finished)
    assert contents(out, str(out)) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]
