"""`python -m evertune` is the command `evertune`."""

from evertune.cli import main

main()
