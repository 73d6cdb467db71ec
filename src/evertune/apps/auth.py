"""Who may reach a server and how much they may send: shared by the chat endpoint and the playground.

A server listens on this machine only, unless its callers must show a token. `connections.py` has the time limits.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from evertune.utils.errors import UserError

LARGEST_BODY = 20 << 20
"""Bytes of a request: a large photograph, as base64 too."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may do before they are answered.

    Attributes:
        most: open connections; beyond it the one that has been silent longest is closed.
        header: seconds until a request's headers are complete, also on a connection that sends nothing.
        body: seconds from there until its body is complete.
        header_bytes: of the headers.
        body_bytes: of the body as it is sent, with what frames its chunks.
    """

    most: int = 200
    header: float = 10
    body: float = 60
    header_bytes: int = 320 << 10  # one read from a socket is up to 256 KiB
    body_bytes: int = LARGEST_BODY + (1 << 20)


class Server:
    """An application with the socket that it will listen on.

    Args:
        app: for uvicorn.
        listening: the socket.
        patience: seconds that open connections get at the end; None: as long as they need.
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
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    def run(self) -> None:
        """Until a signal; questions that wait are answered first."""
        self.uvicorn().run(sockets=[self._socket])

    def uvicorn(self) -> Any:
        """The `uvicorn.Server` of the application, with limits for each connection."""
        import uvicorn

        from evertune.apps.server.connections import protocol

        config = uvicorn.Config(
            self._app,
            log_level="warning",
            timeout_graceful_shutdown=self._patience,
            http=protocol(self._connections),
            ws="none",
        )
        return uvicorn.Server(config)


def refuse_without_token(host: str, token: str | None) -> None:
    """Stop a server that others could reach and that would ask them for nothing.

    Raises:
        UserError: `host` is not this machine alone, and there is no token.
    """
    if not is_this_machine(host) and not token:
        raise UserError(f"on {host} others can reach the model: set a token in EVERTUNE_TOKEN, or listen on 127.0.0.1")


def is_this_machine(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_this_machine(host: str) -> bool:
    """Whether a `Host` header has one of this machine's own names, so that no name of another site was pointed here."""
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    return is_this_machine(name.strip("[]"))


def same_token(given: str, token: str) -> bool:
    """Compared so that the time it takes tells nothing."""
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())


def bearer(authorization: str) -> str:
    """The token of an `Authorization` header."""
    return authorization.removeprefix("Bearer ")


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
        raise UserError(f"can't listen on {host}:{port} ({problem.strerror}): choose another --port") from problem
    return listening
