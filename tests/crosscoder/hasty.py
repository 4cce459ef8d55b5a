"""The `rlgen` command, but that a fit saves its state all the time, and takes a little time over each step.

So that a short fit can be killed often, on a fast machine as on a slow one.
"""

import time
from typing import Any

from rlgen.cli import main
from rlgen.crosscoder import train, trainer


class Slow(trainer.Trainer):
    """A fit that takes at least 20 ms a step."""

    def step(self, *given: Any) -> Any:
        """As usual, but later."""
        time.sleep(0.02)
        return super().step(*given)


if __name__ == "__main__":
    train._SAVE_SECONDS, train._SAVE_SHARE = 0.1, 0.9
    train.Trainer = Slow
    main()
