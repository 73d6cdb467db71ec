"""`evertune serve`: opens a model folder and serves it."""

from __future__ import annotations

from pathlib import Path

from evertune.apps.auth import refuse_without_token
from evertune.apps.serving import Server, socket_at
from evertune.assets import Progress
from evertune.service.service import Service
from evertune.utils.errors import UserError


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    batch: int = 16,
    waiting: int = 64,
    tokens: int = 64,
    progress: Progress | None = None,
) -> Server:
    """Load a model and take a port.

    Raises:
        UserError: the extra is not installed, the port is taken, or others could reach it without a token.
    """
    try:
        from evertune.apps.server.app import make_app
        from evertune.apps.server.generation import BatchGenerator
        from evertune.apps.server.requests import Limits
    except ImportError as problem:
        raise UserError(f"serving needs the package '{problem.name}': pip install 'evertune[serve]'") from problem
    refuse_without_token(host, token)
    listening = socket_at(host, port)
    answering = BatchGenerator(Service.open(folder, progress=progress).learner, batch_size=batch, follows=True)
    app = make_app(answering, name=folder.resolve().name, limits=Limits(batch, waiting, tokens=tokens), token=token)
    return Server(app, listening)
