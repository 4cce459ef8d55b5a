"""The `rlgen` command, but that a fit saves its state all the time: so that a short one can be killed often."""

from rlgen.cli import main
from rlgen.crosscoder import train

if __name__ == "__main__":
    train._SAVE_SECONDS, train._SAVE_SHARE = 0.1, 0.9
    main()
