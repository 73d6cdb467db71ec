"""The command `route`, thin like the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evertune.cli.options import loading, make_console


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
    host: Annotated[
        str, typer.Option(help="The address to listen on; other than this machine's need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="The port; 0: any free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="EVERTUNE_TOKEN", help="The token that clients must send; better set EVERTUNE_TOKEN."),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Questions routed in one batch.")] = 16,
    waiting: Annotated[int, typer.Option(metavar="N", min=1, help="Requests at once before others are refused.")] = 64,
) -> None:
    """Put a model's router before a server that has its adapters. Each question goes to the adapter of its task."""
    with loading():
        from evertune.apps.route.command import route as make_proxy
        from evertune.cli.console import TerminalCallback

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
        listed = "" if name not in proxy.unlisted else "  (not in that server's list: does it load adapters by name?)"
        console.print(f"{expert} -> {name}{listed}", highlight=False, soft_wrap=True, markup=False)
    line = f"{folder.name} answers on http://{host}:{proxy.server.port}/v1, through {upstream}"
    console.print(line, highlight=False, soft_wrap=True, markup=False)
    proxy.server.run()
