"""Who may reach a server and how much they may send: shared by the chat endpoint and the playground.

A server listens on this machine only, unless its callers must show a token. `connections.py` has the time limits.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

from evertune.utils.errors import UserError

SHORTEST_TOKEN = 16
"""Characters of a token that other machines may try to guess; there is no limit on how often they try."""
LARGEST_BODY = 20 << 20
"""Bytes of a request: a large photograph, as base64 too."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may do before they are answered.

    Attributes:
        most: open connections; beyond it one is closed: of those that do not read their reply, else of the silent ones,
            else of the streams, the one that has been so longest.
        header: seconds until a request's headers are complete, also on a connection that sends nothing.
        body: seconds from there until its body is complete.
        write: seconds in which a client has to read some of its reply, 64 KiB or what is left.
        header_bytes: of the headers.
        body_bytes: of the body as it is sent, with what frames its chunks.
    """

    most: int = 200
    header: float = 10
    body: float = 60
    write: float = 60
    header_bytes: int = 64 << 10
    body_bytes: int = LARGEST_BODY + (1 << 20)


def refuse_without_token(host: str, token: str | None) -> None:
    """Refuse to start a server that other machines can reach without a token.

    Raises:
        UserError: `host` is not this machine alone, and there is no token, or one that can be guessed; or the token is
            empty, as that of a shell variable that is not set.
    """
    if token is not None and not token.strip():
        raise UserError("the token is empty: set --token or EVERTUNE_TOKEN to a secret, or leave both out")
    if is_this_machine(host):
        return
    if not token:
        raise UserError(f"on {host} others can reach the model: set a token in EVERTUNE_TOKEN, or listen on 127.0.0.1")
    if len(token) < SHORTEST_TOKEN:
        raise UserError(
            f"on {host} others can guess a token of {len(token)} characters: take at least {SHORTEST_TOKEN} random "
            "ones, such as those of `openssl rand -hex 16`"
        )


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
    """Compared so that the time it takes tells nothing. An empty token matches none."""
    return bool(token) and hmac.compare_digest(given.encode(errors="replace"), token.encode())


def bearer(authorization: str) -> str:
    """The token of an `Authorization` header."""
    return authorization.removeprefix("Bearer ")
