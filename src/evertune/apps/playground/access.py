"""Access to the page: a token if other machines can reach it, request limits and a content security policy.

A plain ASGI middleware around the whole application, so that it also covers Gradio's own paths.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from evertune.apps.auth import bearer, names_this_machine, same_token
from evertune.reporting.page import environment

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LOG = logging.getLogger("uvicorn.error")
LONGEST = 200
"""Most characters of an exception in the log, since visitors can influence its text."""
COOKIE = "evertune"
POLICY_HEADER = b"content-security-policy"
ENTER = "/enter"
UPLOAD = "/gradio_api/upload"
LONGEST_FORM = 4096
LARGEST_VALUES, MOST_VALUES = 2 << 20, 20_000
"""Bytes and values (commas and brackets) of a request that is no upload: while Gradio decodes it, all others wait."""
TOO_LARGE = "At most {} MiB are taken: send less."
TOO_MANY = f"At most {MOST_VALUES:,} values are taken: send less."
TOKEN_WANTED = "Send the token as 'Authorization: Bearer ...'."
FILES = "/gradio_api/file="
OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)|/(assets|static)/.+"
    r"|/gradio_api/((info|startup-events|upload|upload_progress|cancel|reset)|queue/(join|data)|(heartbeat/|file=).+)"
)
"""The paths that the page uses. All others of Gradio's are refused: deep links, a proxy, recordings, an editor, calls
outside the queue."""
INLINE = re.compile(rb"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL)
# Gradio makes functions from text. Nothing is loaded from, or sent to, elsewhere, and of scripts within the page only
# those run that it was sent with, known by their hashes.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'{}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class TooLargeError(HTTPException):
    """A body that goes beyond a limit; FastAPI makes a 400 of any other exception while it reads one."""

    def __init__(self, why: str) -> None:
        super().__init__(413, why)


class AccessMiddleware:
    """Checks every request before the application gets it.

    Args:
        app: the application.
        token: what callers must send once. None: no token; then only this machine's own host names are accepted, so
            that no page of another site reaches the model through a name that it points here.
        largest: bytes of a request.
    """

    def __init__(self, app: Application, *, token: str | None, largest: int) -> None:
        self._app, self._token, self._largest = app, token, largest
        self._pass = hmac.new((token or "").encode(), b"playground", hashlib.sha256).hexdigest()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":  # nothing here speaks websockets
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = await self._refusal(scope, headers, receive, send)
        if refused:
            return
        if not OPEN.fullmatch(scope["path"]):
            await _reply(send, 404, "There is nothing here.")
        elif scope["path"] == "/":
            await self._let_in(_uncompressed(scope), receive, ScriptPolicyMiddleware(send))
        else:
            await self._let_in(scope, receive, send)

    async def _refusal(
        self, scope: MutableMapping[str, Any], headers: dict[str, str], receive: Receive, send: Send
    ) -> bool:
        """Answer a request that is refused; returns whether it was refused."""
        if self._token is None:
            if not names_this_machine(headers.get("host", "")):
                await _reply(send, 403, "This playground answers on 127.0.0.1 and localhost only.")
            elif scope["method"] not in ("GET", "HEAD") and _is_foreign(headers):
                await _reply(send, 403, "This playground takes nothing from a page of another site.")
            else:
                return await self._too_large(scope, headers, send)
            return True
        if scope["path"] == ENTER and scope["method"] == "POST":
            await self._enter(receive, send)
            return True
        if self._knows(headers):
            return await self._too_large(scope, headers, send)
        is_page_request = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        await _reply(send, 401, _form() if is_page_request else TOKEN_WANTED, page=is_page_request)
        return True

    def _most(self, scope: MutableMapping[str, Any]) -> int:
        """Bytes of a request: values take many times their size in memory, an upload goes to the disk."""
        return self._largest if scope["path"] == UPLOAD else min(self._largest, LARGEST_VALUES)

    async def _too_large(self, scope: MutableMapping[str, Any], headers: dict[str, str], send: Send) -> bool:
        length, most = headers.get("content-length", "0"), self._most(scope)
        if length.isdecimal() and int(length) <= most:
            return False
        await _reply(send, 413, TOO_LARGE.format(most >> 20))
        return True

    def _knows(self, headers: dict[str, str]) -> bool:
        """Whether a caller sent the token, with this request or earlier."""
        if self._token is not None and same_token(bearer(headers.get("authorization", "")), self._token):
            return True
        try:
            shown = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return shown is not None and same_token(shown.value, self._pass)

    async def _enter(self, receive: Receive, send: Send) -> None:
        """A token typed into the form becomes a cookie that no script can read; it is not the token itself."""
        body, more = b"", True
        while more and len(body) <= LONGEST_FORM:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        given = parse_qs(body[:LONGEST_FORM].decode("utf-8", "replace")).get("token", [""])[0]
        if self._token is None or not same_token(given, self._token):
            await _reply(send, 401, _form(wrong=True), page=True)
            return
        cookie = f"{COOKIE}={self._pass}; HttpOnly; SameSite=Strict; Path=/"
        await _reply(send, 303, "", more=((b"location", b"/"), (b"set-cookie", cookie.encode())))

    async def _let_in(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        size, values, begun, most = 0, 0, False, self._most(scope)

        async def counted() -> Message:
            nonlocal size, values
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            values += 0 if scope["path"] == UPLOAD else sum(map(part.count, (b",", b"[", b"{")))
            if size > most:
                raise TooLargeError(TOO_LARGE.format(most >> 20))
            if values > MOST_VALUES:
                raise TooLargeError(TOO_MANY)
            return message

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = _with_policy([*message.get("headers", []), *HEADERS])
            await send(message)

        try:
            await self._app(scope, counted, with_headers)
        except TooLargeError as problem:
            if not begun:
                await _reply(send, 413, problem.detail)
        except ClientDisconnect:
            pass
        except Exception as problem:  # uvicorn prints a hundred lines for what any visitor can post
            LOG.error("%s %s failed: %s", scope["method"], scope["path"][:80].encode(), one_line(problem))
            if not begun:
                await _reply(send, 500, "The server failed: see its log.")


class ScriptPolicyMiddleware:
    """Sends the page with a policy that names the scripts within it by their hashes."""

    def __init__(self, send: Send) -> None:
        self._send, self._start, self._body = send, dict[str, Any](), b""

    async def __call__(self, message: Message) -> None:
        """ASGI: the page is buffered until it is complete."""
        if message["type"] == "http.response.start":
            self._start = dict(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        headers = [pair for pair in self._start["headers"] if pair[0] != POLICY_HEADER]
        await self._send({**self._start, "headers": _with_policy(headers, scripts=INLINE.findall(self._body))})
        await self._send({"type": "http.response.body", "body": self._body})


def one_line(problem: BaseException) -> str:
    """What an exception says, with nothing that steers a terminal, and where it was raised."""
    frames = traceback.extract_tb(problem.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {str(problem)[:LONGEST]!a}{where}"


def _with_policy(headers: list[tuple[bytes, bytes]], scripts: Sequence[bytes] = ()) -> list[tuple[bytes, bytes]]:
    """Headers with the policy of the page, where they have none of their own."""
    if any(name == POLICY_HEADER for name, _ in headers):
        return headers
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
    return [*headers, (POLICY_HEADER, POLICY.format("".join(f" 'sha256-{sha}'" for sha in hashes)).encode())]


def _uncompressed(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}


def _is_foreign(headers: dict[str, str]) -> bool:
    """Whether the browser's headers say that a page of another site sent the request."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _form(*, wrong: bool = False) -> str:
    return environment(Path(__file__).parent).get_template("enter.html.j2").render(wrong=wrong, enter=ENTER)


async def _reply(
    send: Send, status: int, text: str, *, page: bool = False, more: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    kind = b"text/html; charset=utf-8" if page else b"text/plain; charset=utf-8"
    headers = _with_policy([(b"content-type", kind), (b"cache-control", b"no-store"), *HEADERS, *more])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
