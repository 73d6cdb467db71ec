"""`evertune route`: opens a model folder and puts its router before a server that has the adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evertune.apps.auth import refuse_without_token
from evertune.apps.serving import Server, socket_at
from evertune.assets import Progress
from evertune.methods.base import BASE
from evertune.service.service import Service
from evertune.utils.errors import UserError

if TYPE_CHECKING:
    from evertune.apps.route.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is ready to run.

    Attributes:
        names: what the server behind calls the adapter of each expert.
        unlisted: those of them that it does not list: it may load them at the first request, or not have them.
    """

    server: Server
    names: Mapping[str, str]
    unlisted: tuple[str, ...]


def route(
    folder: Path,
    upstream: str,
    *,
    adapters: Sequence[str] = (),
    key: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    batch: int = 16,
    waiting: int = 64,
    timeout: float = 120,
    progress: Progress | None = None,
) -> Proxy:
    """Load a model for its router, ask the server behind for its models, and take a port.

    Args:
        folder: of a model whose method has experts.
        upstream: the address of the server behind.
        adapters: `EXPERT=NAME`, where the server's list does not show its names.
        key: of the server behind.
        host: the address to listen on, as in `serve`.
        port: 0 takes any that is free.
        token: what clients must send.
        batch: questions that are routed at once.
        waiting: questions that may wait for the router, and requests that the server behind may be answering.
        timeout: seconds that the server behind may be silent.
        progress: called during downloads.

    Raises:
        UserError: the extra is not installed, the port is taken, there is nothing to route, or the server behind does
            not answer.
    """
    try:
        from evertune.apps.route.app import Router, make_app
        from evertune.apps.route.choosing import Chooser
        from evertune.apps.route.upstream import Patience, Upstream
        from evertune.apps.server.requests import Limits
    except ImportError as problem:
        raise UserError(f"the proxy needs the package '{problem.name}': pip install 'evertune[serve]'") from problem
    refuse_without_token(host, token)
    given = _given(adapters)
    patience = Patience(read=timeout, whole=5 * timeout)
    listed = asyncio.run(_listed(Upstream(upstream, key=key, patience=Patience(read=min(timeout, 10)))))
    with ExitStack() as stack:
        listening = socket_at(host, port)
        stack.callback(listening.close)
        chooser = Chooser(Service.open(folder, progress=progress).learner)
        if stray := sorted(set(given) - {*chooser.models.experts, BASE}):
            known = ", ".join((*chooser.models.experts, BASE))
            raise UserError(f"--adapter {stray[0]}=...: there is no such expert; known: {known}")
        limits = Limits(batch, waiting)
        router = Router(chooser, Upstream(upstream, key=key, patience=patience, most=waiting), given, limits)
        router.listed = listed
        stack.pop_all()
    names = router.names()
    unlisted = tuple(name for name in names.values() if name not in listed)
    app = make_app(router, name=folder.resolve().name, limits=limits, token=token)
    return Proxy(Server(app, listening), names, unlisted)


def _given(adapters: Sequence[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in adapters]
    if wrong := next((expert for expert, equals, name in pairs if not (expert and equals and name)), None):
        raise UserError(f"--adapter {wrong}: give EXPERT=NAME, the expert here and its adapter's name there")
    return {expert: name for expert, _, name in pairs}


async def _listed(upstream: Upstream) -> list[str]:
    from evertune.apps.server.errors import RefusedError

    try:
        return await upstream.models()
    except RefusedError as problem:
        raise UserError(f"{upstream.address}/v1/models: {problem}. Start that server first") from problem
    finally:
        await upstream.close()
