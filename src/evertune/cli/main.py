"""The command line: its groups of commands, and how mistakes and interruptions end. Imports nothing heavy.

evertune run parcel --model smol --method sequential,replay,eproj --out runs/first
"""

from __future__ import annotations

import shutil
import signal
import sys
import textwrap
from collections.abc import Callable
from types import FrameType
from typing import Annotated, NoReturn

import typer

from evertune.cli.analysis import pairs, similarity
from evertune.cli.cache import cache
from evertune.cli.data import data_app, rescore
from evertune.cli.environment import doctor, ls, show
from evertune.cli.grids import grid, study
from evertune.cli.groups import RESUMING, SERVING, Commands, example_of
from evertune.cli.help import Command
from evertune.cli.leaderboard import leaderboard
from evertune.cli.models import export, fetch
from evertune.cli.plugins import with_plugins
from evertune.cli.results import compare, metrics, report
from evertune.cli.routing import route
from evertune.cli.runs import plan, run
from evertune.cli.service import advise, ask, check, learn, log, new, playground, rollback, serve
from evertune.cli.unlearning import forget
from evertune.utils.distributed import is_main_process, rank
from evertune.utils.errors import UserError, shortage
from evertune.utils.redaction import without_secrets

INTERRUPTED = 130
STOPPED = 143

app = typer.Typer(
    name="evertune",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
FUNCTIONS: dict[str, Callable[..., None]] = {
    "run": run,
    "plan": plan,
    "grid": grid,
    "study": study,
    "pairs": pairs,
    "similarity": similarity,
    "new": new,
    "try": advise,
    "learn": learn,
    "check": check,
    "ask": ask,
    "log": log,
    "rollback": rollback,
    "forget": forget,
    "serve": serve,
    "route": route,
    "app": playground,
    "export": export,
    "fetch": fetch,
    "compare": compare,
    "report": report,
    "leaderboard": leaderboard,
    "metrics": metrics,
    "rescore": rescore,
    "ls": ls,
    "show": show,
    "doctor": doctor,
    "cache": cache,
}
WITHOUT_PLUGINS = {"log", "metrics", "cache"}
"""Commands that look up no name which a plug-in could bring."""
for name, function in FUNCTIONS.items():
    command = function if name in WITHOUT_PLUGINS else with_plugins(function)
    app.command(name, cls=Command, epilog=example_of(name))(command)
app.add_typer(data_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"evertune {version('evertune')}")
        raise typer.Exit


@app.callback()
def evertune(
    version: Annotated[
        bool, typer.Option("--version", "-V", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Train large multimodal models on one task after another, and measure what they forget."""


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, an interruption exit code 130, SIGTERM
    exit code 143."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = app(prog_name="evertune", standalone_mode=False)
    except UserError as problem:
        _show_details(getattr(problem, "details", ""))
        _complain(str(problem))
    except OSError as problem:
        if (lacking := shortage(problem)) is None:
            raise
        _complain(f"{lacking}, then run the same command again")
    except typer.Abort:
        print("evertune: aborted, nothing is changed", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == STOPPED:
            _say_ended(getattr(end, "message", "stopped by SIGTERM"))
        raise
    except Exception as problem:
        _refuse_usage(problem)
    if code == INTERRUPTED:  # typer has turned a KeyboardInterrupt into this
        _say_ended("stopped" if SERVING.intersection(sys.argv[1:2]) else "interrupted")
    sys.exit(code)


def _say_ended(how: str) -> None:
    """How a command ended early, and whether the same command resumes it."""
    resumes = "; the same command again continues" if RESUMING.intersection(sys.argv[1:2]) else ""
    print(f"evertune: {how}{resumes}", file=sys.stderr)


def _refuse_usage(problem: Exception) -> NoReturn:
    """One line about an option or argument; typer brings its own copy of click, whose errors have no public class."""
    if not hasattr(problem, "format_message"):
        raise problem
    context = getattr(problem, "ctx", None)
    if context is None or type(problem).__name__.startswith("NoArgsIsHelp"):
        problem.show()  # type: ignore[attr-defined]
        sys.exit(2)
    text = problem.format_message().strip().rstrip(".").replace("\n", " ")
    _complain(f"{text[:1].lower()}{text[1:]}; see {context.command_path} --help")


def _show_details(details: str) -> None:
    """The traceback of a plug-in that can't be imported, above the line that says whose it is."""
    if details:
        from evertune.utils.terminal import plain

        print(plain(without_secrets(details)).rstrip(), file=sys.stderr)


def _complain(message: str) -> NoReturn:
    """One line that says which process it is from, and exit code 2."""
    from evertune.utils.terminal import plain

    who = "evertune" if is_main_process() else f"evertune (process {rank()})"
    line = f"{who}: {plain(without_secrets(message))}"
    if sys.stderr.isatty():
        line = _broken(line, width=shutil.get_terminal_size().columns)
    print(line, file=sys.stderr)
    sys.exit(2)


def _broken(text: str, *, width: int) -> str:
    """A message with its lines broken between words; the rest of a line is indented as its beginning."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM outside of a training, where nothing has to be saved: every file is whole or absent."""
    sys.exit(STOPPED)
