"""Training by one or several processes, forked from one that has everything imported, and killed at will."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

SAVE_EVERY = 0.3
"""Seconds between training states, so that a kill falls now before one and now after."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.posttrain.ranks", "rlgen.posttrain.sft", "rlgen.posttrain.grpo", "deepspeed"])


def run(train: Callable[..., None], out: Path, ranks: int, kill_after: float | None = None) -> bool:
    """`train(out=out)` in so many processes; returns whether they ended by themselves before they were killed, so many
    seconds after they began to work in the folder.

    Raises AssertionError if one fails, with its last words.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = out.parent / f"{out.name}.said"
    processes = [
        _server.Process(target=_rank, args=(train, out, rank, ranks, port, f"{said}-{rank}")) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    last = time.monotonic() + 300
    while time.monotonic() < last and not any(process.exitcode for process in processes):
        if all(process.exitcode == 0 for process in processes):
            break
        if kill_after and last > time.monotonic() + kill_after and _begun(out, processes):
            last = time.monotonic() + kill_after
        time.sleep(0.02)
    ended = all(process.exitcode == 0 for process in processes)
    failed = [rank for rank, process in enumerate(processes) if process.exitcode]
    for process in processes:
        if process.exitcode is None and process.pid:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    words = "\n".join(Path(f"{said}-{rank}").read_text()[-3000:] for rank in failed)
    assert not failed, words
    return ended


def _begun(out: Path, processes: list[ForkServerProcess]) -> bool:
    """Whether the first of the processes is at work in the stage's folder, and not one that was killed before."""
    with contextlib.suppress(OSError, ValueError):
        owner = json.loads((out.with_name(f"{out.name}.partial") / ".stage.json").read_text())["owner"]
        return bool(owner["pid"] == processes[0].pid)
    return False


def _rank(train: Callable[..., None], out: Path, rank: int, ranks: int, port: int, said: str) -> None:
    words = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(words, 1)
    os.dup2(words, 2)
    if ranks > 1:
        os.environ |= {
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        }
    import torch

    from rlgen.cli import readable_errors
    from rlgen.posttrain import trainer

    torch.set_num_threads(1)
    collectives: Any = import_module("deepspeed.comm.torch")
    collectives.build_shm_op = lambda: None  # it takes a minute to compile, and spins where cores are shared
    trainer._SAVE_EVERY = SAVE_EVERY
    with readable_errors():
        train(out=out)
