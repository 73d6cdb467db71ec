"""The command `forget`, thin like the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evertune.cli.options import JsonOption, loading, make_console, print_json


def forget(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The model's folder.")],
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task that it has learned.")],
    keep_copy: Annotated[
        Path | None,
        typer.Option("--keep-copy", metavar="FOLDER", help="A new folder for the model with the task."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what a model learned on one task, exactly. The other experts stay; no stage with it is kept."""
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.printing import show_text
        from evertune.cli.service_view import show_check
        from evertune.service import forget as forget_task
        from evertune.service.unlearning import begun

    if not begun(folder, task) and not yes:
        back = f"only {keep_copy} has it then" if keep_copy else "no stage keeps it"
        typer.confirm(f"forget {task} for good ({back})?", abort=True)
    console = make_console(quiet=as_json)
    with TerminalCallback(console) as callback:
        done = forget_task(folder, task, keep_copy=keep_copy, callback=callback, progress=callback.fetching)
    if as_json:
        print_json(done.as_dict())
        return
    if done.verdict and done.verdict.others:
        show_check(console, done.verdict)
    show_text(console, f"{folder} has forgotten {task}, which was stage {done.stage}")
    for number, name in enumerate(done.later, start=done.stage):
        show_text(console, f"{name} is stage {number} now")
    if done.copy:
        show_text(console, f"a copy with it is in {done.copy}")
