"""One command of `rlgen` by several processes of this machine."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def torchrun(processes: int, words: list[str]) -> NoReturn:
    """Go on as `torchrun`, with so many processes of `rlgen <words>`; they find each other by its environment."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "rlgen", *words])
