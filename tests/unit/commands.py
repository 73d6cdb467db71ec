"""Run a command of the command line in this process."""

from __future__ import annotations

import sys

from evertune.cli import main as cli


def evertune(*arguments, capsys):
    """Run a command in this process; (exit code, stdout, stderr)."""
    before = sys.argv
    sys.argv = ["evertune", *map(str, arguments)]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return code, captured.out, captured.err
