"""From a folder to a server that listens: what `evertune serve` does."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from evertune.assets import Progress
from evertune.errors import UserError
from evertune.upkeep.steps import Service

if TYPE_CHECKING:
    from fastapi import FastAPI


class Server:
    """An application with the socket that it will listen on."""

    def __init__(self, app: FastAPI, listening: socket.socket) -> None:
        self._app, self._socket = app, listening

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    def run(self) -> None:
        """Until a signal; questions that wait are answered first."""
        import uvicorn

        uvicorn.Server(uvicorn.Config(self._app, log_level="warning")).run(sockets=[self._socket])


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
        from evertune.serve.answering import Answering
        from evertune.serve.app import Limits, make_app
    except ImportError as problem:
        raise UserError(f"serving needs the package '{problem.name}': pip install 'evertune[serve]'") from problem
    if not _is_this_machine(host) and not token:
        raise UserError(f"on {host} others can reach the model: set a token in EVERTUNE_TOKEN, or listen on 127.0.0.1")
    listening = _socket(host, port)
    answering = Answering(Service.open(folder, progress=progress).learner, batch_size=batch)
    app = make_app(answering, name=folder.resolve().name, limits=Limits(batch, waiting, tokens=tokens), token=token)
    return Server(app, listening)


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _socket(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # a port that does not listen yet may be taken twice
    except OSError as problem:
        listening.close()
        raise UserError(f"can't listen on {host}:{port} ({problem.strerror}): choose another --port") from problem
    return listening
