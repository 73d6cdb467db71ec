"""`python -m evertune` is the command `evertune`."""

from evertune.cli.main import main

main()
