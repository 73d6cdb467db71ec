"""`/v1/chat/completions`, forwarded to the adapter that the router chooses; `/v1/models`, `/health` and `/metrics`.

A reply says which adapter answered: the headers `X-Evertune-Expert` and `X-Evertune-Adapter`, and `evertune_route` in
the body or in the first event of a stream.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from evertune.apps.route.choosing import Choice, Chooser, adapter_names
from evertune.apps.route.upstream import Upstream, UpstreamReply, broken, reply_object
from evertune.apps.server.batches import Batches
from evertune.apps.server.chat import forwarded_request_of
from evertune.apps.server.errors import RefusedError
from evertune.apps.server.generation import Question
from evertune.apps.server.guards import (
    ServerMetrics,
    add_facts,
    admit,
    guarded_app,
    refuse_forms,
    within_limits,
)
from evertune.apps.server.names import ServedModels, Variant
from evertune.apps.server.requests import Budget, Limits, ParsedRequest, RequestParser
from evertune.methods.base import BASE

FIELD, NOT_FOUND = "evertune_route", 404


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a question goes: the expert, what the server behind calls its adapter, the stage whose router chose."""

    expert: str
    adapter: str
    stage: int

    def headers(self) -> dict[str, str]:
        """For the reply; the values are names of tasks and of models, in ASCII."""
        about = {"Expert": self.expert, "Adapter": self.adapter, "Stage": str(self.stage)}
        return {f"X-Evertune-{name}": value.encode("ascii", "replace").decode() for name, value in about.items()}

    def as_dict(self) -> dict[str, Any]:
        """For the body."""
        return {"expert": self.expert, "adapter": self.adapter, "stage": self.stage}


class Router:
    """Chooses the adapter of a request and forwards it.

    Args:
        chooser: used by one thread only.
        upstream: the server behind.
        names: what it calls the adapters, by the user.
        limits: of requests, memory, queue; `waiting` limits the forwarded requests too.
    """

    def __init__(self, chooser: Chooser, upstream: Upstream, names: Mapping[str, str], limits: Limits) -> None:
        self.chooser, self.upstream = chooser, upstream
        self.batches: Batches[Question, Choice] = Batches(
            chooser, most=limits.batch, waiting=limits.waiting, idle=chooser.idle
        )
        self.forwarded = Budget(limits.waiting)
        self.listed: list[str] = []
        self._given = names

    def names(self) -> dict[str, str]:
        """What the server behind calls each adapter."""
        there = self.chooser.models
        return adapter_names((*there.experts, BASE), self.listed, self.chooser.folders, self._given)

    async def destination(self, parsed: ParsedRequest) -> Destination:
        """Where a question goes.

        Raises:
            FullError: too many questions wait. RunFolderError: the folder is damaged.
        """
        if (expert := parsed.question.variant.expert) is not None:
            served = self.chooser.models.last
        else:
            choice = await asyncio.wrap_future(self.batches.ask(parsed.question))
            expert, served = choice.expert, choice.served
        return Destination(expert, self.names()[expert], served.stage)

    @asynccontextmanager
    async def forward(self, content: bytes) -> AsyncIterator[UpstreamReply]:
        """The reply of the server behind. Where it does not know the adapter, its list is read again."""
        try:
            async with self.upstream.chat(content) as reply:
                yield reply
        except RefusedError as problem:
            if problem.status == NOT_FOUND:
                with suppress(RefusedError):
                    self.listed = await self.upstream.models()
            raise

    def refuse_other(self, answered: object, wanted: str) -> None:
        """Refuse a reply of another adapter than the one of the request.

        A name that is none of ours may be an alias, as gateways have them.
        """
        if answered != wanted and answered in {*self.listed, *self.names().values()}:
            raise broken(f"answered as '{answered!s:.100}' and not as '{wanted:.100}': it may not have that adapter")


def make_app(router: Router, *, name: str, limits: Limits | None = None, token: str | None = None) -> FastAPI:
    """The application.

    Args:
        router: chooses and forwards.
        name: what clients call the routed model.
        limits: of requests and memory.
        token: what clients must send as `Authorization: Bearer ...`; None: nothing.
    """
    limits = limits or Limits()
    measured = ServerMetrics(router.batches)
    intake = RequestParser(router.chooser, name, limits, reads=forwarded_request_of)
    app = guarded_app(router.batches, measured, token=token, closing=router.upstream.close)

    def health() -> dict[str, Any]:
        served = router.chooser.served
        about = {"stage": served.stage, "task": served.task, "upstream": router.upstream.address}
        return {"waiting": len(router.batches), **about}

    def about(variant: Variant, there: ServedModels) -> dict[str, Any]:
        adapter = router.names()[variant.expert] if variant.expert else None
        return {"created": there.last.created, FIELD: {"expert": variant.expert, "adapter": adapter}}

    add_facts(app, name=name, token=token, health=health, models=lambda: router.chooser.models, about=about)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        admit(request, token)
        refuse_forms(request)
        started = time.perf_counter()
        with intake.bodies.share() as bodies:
            body = await within_limits(intake.body(request.stream(), bodies))
            with intake.pixels.share() as pixels:
                parsed = await within_limits(intake.parsed(body, pixels))
                goes = await within_limits(router.destination(parsed))
            content = await asyncio.to_thread(_readdressed, body, goes.adapter)
            response = await within_limits(_forwarded(router, content, goes))
        measured.seconds.observe(time.perf_counter() - started)
        return response

    return app


def _readdressed(body: bytes | bytearray, adapter: str) -> bytes:
    """The client's request with another model; all else is as it was."""
    return json.dumps({**json.loads(body), "model": adapter}, ensure_ascii=False).encode(errors="surrogatepass")


async def _forwarded(router: Router, content: bytes, goes: Destination) -> Response:
    """The reply of the server behind: as a whole, or as a stream that is read while it is sent on.

    Raises:
        FullError: it is answering as many requests as it may. RefusedError: it fails, or passes an error on.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(router.forwarded.share()).add(1)
        reply = await stack.enter_async_context(router.forward(content))
        if reply.streams:
            lines = reply.lines()
            first = [line async for line in _until_event(lines)]
            start = _with_route(router, first, goes)
            rest = stack.pop_all()
            return StreamingResponse(
                _sent_on(start, lines, rest), media_type="text/event-stream", headers=goes.headers()
            )
        found = reply_object(await reply.whole())
    router.refuse_other(found.get("model", goes.adapter), goes.adapter)
    return JSONResponse({**found, FIELD: goes.as_dict()}, headers=goes.headers())


async def _until_event(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream up to its first event, that one included."""
    async for line in lines:
        yield line
        if line.startswith(b"data:"):
            return


def _with_route(router: Router, lines: list[bytes], goes: Destination) -> bytes:
    """The beginning of a stream; its first event says where the question went."""
    *before, event = lines or [b"data: [DONE]\n"]
    text = event.removeprefix(b"data:").strip()
    if not event.startswith(b"data:") or text == b"[DONE]":
        return b"".join([*before, event])
    found = reply_object(text)
    router.refuse_other(found.get("model", goes.adapter), goes.adapter)
    return b"".join([*before, b"data: ", json.dumps({**found, FIELD: goes.as_dict()}).encode(), b"\n"])


async def _sent_on(start: bytes, lines: AsyncIterator[bytes], stack: AsyncExitStack) -> AsyncIterator[bytes]:
    """The rest of a stream; a failure in the middle is an event that clients know as an error."""
    try:
        async with stack:
            yield start
            async for line in lines:
                yield line
    except RefusedError as problem:
        body = problem.response().body
        yield b"data: " + bytes(body) + b"\n\n"
