"""Who may reach a server and how much they may send: shared by the chat endpoint and the playground.

A server listens on this machine only, unless its callers must show a token.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from typing import Any

from evertune.errors import UserError

LARGEST_BODY = 20 << 20
"""Bytes of a request: a large photograph, as base64 too."""


class Server:
    """An application with the socket that it will listen on.

    Args:
        app: for uvicorn.
        listening: the socket.
        patience: seconds that open connections get at the end; None: as long as they need.
    """

    def __init__(self, app: Any, listening: socket.socket, *, patience: int | None = None) -> None:
        self._app, self._socket, self._patience = app, listening, patience

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    def run(self) -> None:
        """Until a signal; questions that wait are answered first."""
        import uvicorn

        config = uvicorn.Config(self._app, log_level="warning", timeout_graceful_shutdown=self._patience)
        uvicorn.Server(config).run(sockets=[self._socket])


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
