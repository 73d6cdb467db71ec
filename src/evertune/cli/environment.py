"""The commands about what there is and whether it is whole: `ls`, `show` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evertune.cli.options import DataOption, JsonOption, loading, make_console, print_json
from evertune.utils.errors import UserError


def ls(
    what: Annotated[str, typer.Argument(metavar="methods|streams|models|formats", help="What to list.")] = "methods",
    as_json: JsonOption = False,
) -> None:
    """List methods, streams, models or formats of data."""
    with loading():
        from evertune.cli.catalogue import listing

        rows = listing(what)
    if as_json:
        print_json(rows)
        return
    from evertune.cli.printing import show_facts

    titles = {row["name"]: row["title"] + (f" ({row['from']})" if "from" in row else "") for row in rows}
    show_facts(make_console(), what, titles)


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `evertune ls` lists it.")], as_json: JsonOption = False
) -> None:
    """Show a method, stream, model or format in full. Papers, formulas, options, costs, licences."""
    with loading():
        from evertune.cli.catalogue import details

        facts = details(name)
    if as_json:
        print_json(facts)
        return
    from evertune.cli.printing import show_facts

    console = make_console()
    for number, (title, section) in enumerate(facts.items()):
        if number:
            console.print()
        show_facts(console, title, section)


def doctor(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="The folder of a run or a model.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Make what is broken again, and nothing else.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, or every checksum of a run folder. Says what is broken and what can be repaired."""
    if run is not None:
        _doctor_of(run, repairs=repair, data=data, as_json=as_json)
        return
    if repair:
        raise UserError("--repair needs a folder: evertune doctor RUN --repair")
    with loading("measuring this machine"):
        from evertune.cli.catalogue import machine

        facts = machine()
    if as_json:
        print_json(facts)
        return
    from evertune.cli.printing import show_facts

    show_facts(make_console(), "evertune doctor", facts)


def _doctor_of(run: Path, *, repairs: bool, data: str | None, as_json: bool) -> None:
    with loading():
        from evertune.cli.console import TerminalCallback
        from evertune.cli.service_view import show_findings
        from evertune.service.integrity import examine, repair

    console = make_console(quiet=as_json)
    if repairs:
        with TerminalCallback(console) as callback:
            done = repair(run, data=data, callback=callback, progress=callback.fetching)
        found, left = done.found, done.left
    else:
        found = left = examine(run)
    if as_json:
        print_json({"found": [f.as_dict() for f in found], "left": [f.as_dict() for f in left]})
    else:
        show_findings(console, found, left, folder=run, repaired=repairs)
    if left:
        raise typer.Exit(1)
