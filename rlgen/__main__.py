"""`python -m rlgen`."""

from rlgen.cli import main

main()
