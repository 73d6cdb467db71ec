"""The server behind the proxy: what it lists, requests to it, and each way in which it can fail.

Its replies are trusted as little as a client's requests: they are bounded in size and time, redirects are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from evertune.apps.server.errors import RefusedError
from evertune.utils.errors import UserError
from evertune.utils.parsing import json_value

LARGEST_REPLY = 16 << 20
"""Bytes of a reply, of a list of models and of a line of a stream."""
PASSED_ON = ("retry-after",)
"""Headers of an error that a client needs."""
OWN_KEY = (401, 403)
"""Statuses that are about the proxy's key and not about the client's."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Time limits of the server behind.

    Attributes:
        connect: seconds until it takes a connection.
        read: seconds between two parts of a reply, and until the first.
        whole: seconds of a reply in all.
    """

    connect: float = 5
    read: float = 120
    whole: float = 600


class Upstream:
    """The server behind.

    Args:
        url: with or without `/v1`.
        key: what it wants as `Authorization: Bearer ...`; None: nothing.
        patience: time limits.
        most: connections at once.

    Raises:
        UserError: `url` is no address of HTTP.
    """

    def __init__(self, url: str, *, key: str | None = None, patience: Patience | None = None, most: int = 64) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UserError(f"--upstream {url!r:.200} is no address: give one like http://127.0.0.1:8001")
        self._patience = patience or Patience()
        self.address = url.rstrip("/").removesuffix("/v1")
        wait = httpx.Timeout(self._patience.read, connect=self._patience.connect, pool=self._patience.connect)
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        self._client = httpx.AsyncClient(
            timeout=wait, limits=limits, headers=headers, trust_env=False, follow_redirects=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def models(self) -> list[str]:
        """The models that it lists.

        Raises:
            RefusedError: it does not answer, or with something else.
        """
        request = self._client.build_request("GET", f"{self.address}/v1/models")
        async with self.sent(request) as reply:
            content = reply_object(await reply.whole())
        found = content.get("data")
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise broken("lists no models (data)")
        return [each["id"] for each in found if isinstance(each.get("id"), str)]

    @asynccontextmanager
    async def chat(self, body: bytes) -> AsyncIterator[UpstreamReply]:
        """The reply to a chat request.

        Raises:
            RefusedError: it does not answer, or with an error, which is passed on.
        """
        headers = {"Content-Type": "application/json"}
        request = self._client.build_request(
            "POST", f"{self.address}/v1/chat/completions", content=body, headers=headers
        )
        async with self.sent(request) as reply:
            yield reply

    @asynccontextmanager
    async def sent(self, request: httpx.Request) -> AsyncIterator[UpstreamReply]:
        """The reply to a request, whose body is not read yet."""
        try:
            async with asyncio.timeout(self._patience.whole):
                response = await self._client.send(request, stream=True)
            try:
                reply = UpstreamReply(response, ends=asyncio.get_running_loop().time() + self._patience.whole)
                await reply.refuse_error()
                yield reply
            finally:
                await response.aclose()
        except (TimeoutError, httpx.TimeoutException) as problem:
            message = f"the server behind ({self.address}) does not answer"
            raise RefusedError(504, message, code="upstream_timeout") from problem
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            why = f"{type(problem).__name__}: {problem}".rstrip(": ")
            message = f"the server behind ({self.address}) failed ({why:.200})"
            raise RefusedError(502, message, code="upstream_failed") from problem


class UpstreamReply:
    """A reply that is being read, at the latest until `ends`, a time of the event loop."""

    def __init__(self, response: httpx.Response, *, ends: float) -> None:
        self._response, self._ends = response, ends

    @property
    def streams(self) -> bool:
        """Whether it is a stream of events."""
        return str(self._response.headers.get("content-type", "")).lower().startswith("text/event-stream")

    async def whole(self) -> bytes:
        """All of it.

        Raises:
            RefusedError: it is too long.
        """
        content = bytearray()
        async for part in self._parts():
            content += part
            if len(content) > LARGEST_REPLY:
                raise broken(f"sends more than {LARGEST_REPLY >> 20} MiB")
        return bytes(content)

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of a stream, as they come, with their ends.

        Raises:
            RefusedError: one is too long.
        """
        held = bytearray()
        async for part in self._parts():
            held += part
            while (end := held.find(b"\n")) >= 0:
                yield bytes(held[: end + 1])
                del held[: end + 1]
            if len(held) > LARGEST_REPLY:
                raise broken(f"sends a line of more than {LARGEST_REPLY >> 20} MiB")
        if held:
            yield bytes(held)

    async def _parts(self) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        async for part in self._response.aiter_raw():
            yield part
            if clock() > self._ends:
                raise TimeoutError

    async def refuse_error(self) -> None:
        """Pass an error on: its status, its message, when to ask again."""
        status = self._response.status_code
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise broken(f"answers with a redirect ({status}), which is not followed")
        text = await self.whole()
        if status in OWN_KEY:
            raise broken(f"refuses the key of this proxy ({status}): set EVERTUNE_UPSTREAM_KEY")
        headers = {name: value for name in PASSED_ON if (value := self._response.headers.get(name))}
        raise PassedOnError(status if 400 <= status < 600 else 502, _error_in(text), headers)


class PassedOnError(RefusedError):
    """An error of the server behind, with its own words."""

    def __init__(self, status: int, error: dict[str, Any], headers: dict[str, str]) -> None:
        super().__init__(
            status,
            str(error.get("message") or "the server behind refused the request"),
            code=str(error.get("code") or "upstream_error")[:100],
            param=error["param"] if isinstance(error.get("param"), str) else None,
        )
        self.headers = headers

    def response(self) -> Any:
        """As clients expect it, with the headers that they need."""
        response = super().response()
        response.headers.update(self.headers)
        return response


def broken(what: str) -> RefusedError:
    """The server behind does something that no such server does."""
    return RefusedError(502, f"the server behind {what}", code="upstream_broken")


def reply_object(content: bytes) -> dict[str, Any]:
    """A reply, or an event of a stream.

    Raises:
        RefusedError: it is no object of JSON.
    """
    try:
        found = json_value(content.decode())
    except ValueError as problem:
        raise broken("sends no JSON") from problem
    if not isinstance(found, dict):
        raise broken("sends JSON that is no object")
    return found


def _error_in(content: bytes) -> dict[str, Any]:
    """The error object of a reply, in any of the forms that servers have; else its beginning as the message."""
    text = content.decode(errors="replace")
    try:
        found = json_value(text)
    except ValueError:
        return {"message": text[:1000]}
    inner = found.get("error", found) if isinstance(found, dict) else {}
    if isinstance(inner, str):
        return {"message": inner}
    sound = isinstance(inner, dict) and isinstance(inner.get("message"), str)
    return inner if sound else {"message": text[:1000]}
