"""The commands about what there is: `ls` and `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from evertune.cli.options import JsonOption, loading, make_console, print_json


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
    from evertune.cli.console import show_facts

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
    from evertune.cli.console import show_facts

    console = make_console()
    for number, (title, section) in enumerate(facts.items()):
        if number:
            console.print()
        show_facts(console, title, section)
