"""Evaluation: requests a second, beside lm-evaluation-harness' own model class on the same requests in the same run.

`python tests/benchmarks/evaluation.py [--data ../shared/data] [--model ../shared/models/stories260k] [--rounds 5]`

Both have the same model and batch size, and are given the same tasks; ours and theirs take turns, each in
the other order every second round, and the ratios are medians over rounds: of seconds, and of the process's own CPU
seconds, which other work on the machine disturbs less. Theirs is `HFLM.loglikelihood` and
`HFLM.generate_until` alone: requests are made beforehand, and its reports are not counted. Ours is `Runner.run`, which
also scores the answers and makes the table of items.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from operator import truediv
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from rlgen.data.tasks import make_task
from rlgen.evaluation.harness import Harness
from rlgen.evaluation.lm import quiet
from rlgen.models import load_model, load_tokenizer
from rlgen.study.sections import BenchmarkTask, Evaluation
from rlgen.study.stages import TaskSettings

BATCH = 32
CHOICES = {"arc_challenge": "arc_challenge_test", "sciq": "sciq_test", "piqa": "piqa_valid", "logiqa": "logiqa_test"}
WRITTEN = {"math500": "math500_test"}
ANSWERS = 32
"""Tokens of a generated answer."""
LONGEST = 400
"""Characters of a problem: the model has room for 512 tokens."""


def main() -> None:
    """Measure every task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", type=Path, default=Path("../shared/models/stories260k"))
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, help="give the model so many tokens, as large models have")
    parser.add_argument("--tasks", nargs="*", default=[*CHOICES, *WRITTEN])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {**CHOICES, **WRITTEN}
        tasks = [_task(Path(folder), chosen, name, files[name]) for name in chosen.tasks]
        evaluation = Evaluation(batch_size=BATCH, temperature=0, max_new_tokens=ANSWERS)
        model = load_model(chosen.model)
        if chosen.vocabulary:
            model.resize_token_embeddings(chosen.vocabulary)
        harness = Harness(model, load_tokenizer(chosen.model), tasks, evaluation)
        stock = HFLM(pretrained=model, tokenizer=load_tokenizer(chosen.model), batch_size=BATCH)
        print(
            f"{chosen.items} items a task, batch {BATCH}, {torch.get_num_threads()} threads, {chosen.rounds} rounds\n"
        )
        print("| task | requests | ours, requests/s | the harness's own | ratio (least, most) | of CPU time |")
        print("|---|---|---|---|---|---|")
        for name in harness.tasks:
            print(_row(harness, stock, name, chosen.rounds), flush=True)


def _task(folder: Path, chosen: argparse.Namespace, name: str, file: str) -> Path:
    path = chosen.data / f"{file}.jsonl"
    if name in WRITTEN:
        rows = [line for line in path.read_text().splitlines() if len(line.partition('"solution"')[0]) < LONGEST]
        path = folder / f"{file}.jsonl"
        path.write_text("\n".join(rows))
    task = BenchmarkTask(name=name, source="benchmark", path=path, items=chosen.items)
    evaluation = Evaluation(temperature=0, max_new_tokens=ANSWERS)
    make_task(TaskSettings(task=task, evaluation=evaluation), out=folder / name)
    return folder / name


def _row(harness: Harness, stock: HFLM, name: str, rounds: int) -> str:
    requests = [request for group in harness._tasks[name].requests.values() for request in group]
    run: dict[str, Callable[[], Any]] = {
        "ours": lambda: harness.run([name]),
        "theirs": lambda: (stock.generate_until if name in WRITTEN else stock.loglikelihood)(requests, True),
    }
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    busy: dict[str, list[float]] = {"ours": [], "theirs": []}
    for round_ in range(rounds + 1):
        for side in sorted(run, reverse=bool(round_ % 2)):
            harness._live._encoded.clear()  # each run tokenises anew
            start, working = time.perf_counter(), time.process_time()
            with quiet():
                run[side]()
            if round_:
                seconds[side].append(time.perf_counter() - start)
                busy[side].append(time.process_time() - working)
    ratios, of_cpu = ([*map(truediv, found["theirs"], found["ours"])] for found in (seconds, busy))
    rates = [len(requests) / statistics.median(seconds[side]) for side in ("ours", "theirs")]
    shown = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}, {max(ratios):.2f})"
    cpu = f"{statistics.median(of_cpu):.2f}"
    return f"| {name} | {len(requests)} | {rates[0]:,.0f} | {rates[1]:,.0f} | {shown} | {cpu} |"


if __name__ == "__main__":
    main()
