"""The command `route`, thin like the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evertune.cli.options import loading, make_console
from evertune.cli.service import HostOption, PortOption, TokenOption, run_server


def route(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a model with experts.")],
    upstream: Annotated[str, typer.Option("--upstream", metavar="URL", help="The server that has the adapters.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="EXPERT=NAME", help="What that server calls an adapter; several times."),
    ] = None,
    upstream_key: Annotated[
        str | None,
        typer.Option(envvar="EVERTUNE_UPSTREAM_KEY", help="That server's API key; better set EVERTUNE_UPSTREAM_KEY."),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Longest silence of that server.")] = 120,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: TokenOption = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Questions routed in one batch.")] = 16,
    waiting: Annotated[int, typer.Option(metavar="N", min=1, help="Requests at once before others are refused.")] = 64,
) -> None:
    """Put a model's router before a server that has its adapters. Each question goes to the adapter of its task."""
    with loading():
        from evertune.apps.route.command import route as make_proxy
        from evertune.cli.console import TerminalCallback
        from evertune.cli.printing import show_note, show_value

    console = make_console()
    with TerminalCallback(console) as callback:
        proxy = make_proxy(
            folder,
            upstream,
            adapters=adapter or (),
            key=upstream_key,
            host=host,
            port=port,
            token=token,
            batch=batch,
            waiting=waiting,
            timeout=timeout,
            progress=callback.fetching,
        )
    for expert, name in proxy.names.items():
        show_value(console, f"{expert} ->", name)
    for name in proxy.unlisted:
        show_note(console, f"{upstream} does not list {name}: it must load adapters at their first request")
    run_server(proxy.server, console, f"{folder.resolve().name} answers on", host=host, path="/v1")
