"""An application, the socket that it listens on, and uvicorn with limits for each connection."""

from __future__ import annotations

import socket
from typing import Any

from evertune.apps.auth import ConnectionLimits
from evertune.apps.server.connections import protocol
from evertune.utils.errors import UserError


class Server:
    """An application with the socket that it will listen on.

    Args:
        app: for uvicorn.
        listening: the socket.
        patience: seconds that open connections get at shutdown; None: no limit.
        connections: limits of what one connection may do.
    """

    def __init__(
        self,
        app: Any,
        listening: socket.socket,
        *,
        patience: int | None = None,
        connections: ConnectionLimits | None = None,
    ) -> None:
        self._app, self._socket, self._patience = app, listening, patience
        self._connections = connections or ConnectionLimits()

    @property
    def port(self) -> int:
        """The address of the server."""
        port: int = self._socket.getsockname()[1]
        return port

    def run(self) -> None:
        """Serve until a signal arrives; waiting questions are answered first."""
        self.uvicorn().run(sockets=[self._socket])

    def uvicorn(self) -> Any:
        """The `uvicorn.Server` of the application, with limits for each connection."""
        import uvicorn

        config = uvicorn.Config(
            self._app,
            log_level="warning",
            timeout_graceful_shutdown=self._patience,
            http=protocol(self._connections),
            h11_max_incomplete_event_size=2 * self._connections.header_bytes,  # our limit comes first
            ws="none",
        )
        return uvicorn.Server(config)


def address(host: str, port: int) -> str:
    """`127.0.0.1:8000`, `[::1]:8000`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def socket_at(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        UserError: the port is taken, or the address is not this machine's.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # a port that does not listen yet may be taken twice
    except OSError as problem:
        listening.close()
        place = address(host, port)
        raise UserError(f"can't listen on {place} ({problem.strerror}): choose another --port") from problem
    return listening
