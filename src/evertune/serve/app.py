"""The endpoint: `/v1/chat/completions` with pictures, streaming or not, `/v1/models`, `/health` and `/metrics`.

Errors look as clients of this protocol expect them: {"error": {"message", "type", "code"}}.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ValidationError

from evertune.errors import UserError
from evertune.serve.answering import Answering, Question, Reply
from evertune.serve.batches import Batches, FullError
from evertune.serve.chat import ChatRequest, question_of
from evertune.serve.listening import LARGEST_BODY, bearer, same_token


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes.

    Attributes:
        batch: questions answered at once.
        waiting: questions that may wait; beyond it the answer is 429.
        body: bytes of a request.
        tokens: of an answer.
    """

    batch: int = 16
    waiting: int = 64
    body: int = LARGEST_BODY
    tokens: int = 64


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def response(self) -> JSONResponse:
        """As clients expect it."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        body = {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}
        headers = {"Retry-After": "1"} if self.status == 429 else {}
        return JSONResponse(body, status_code=self.status, headers=headers)


class Measured:
    """What `/metrics` tells."""

    def __init__(self, batches: Batches[Question, Reply]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("evertune_requests", "Requests by status", ["status"], registry=self.registry)
        self.seconds = Histogram("evertune_request_seconds", "Seconds until an answer", registry=self.registry)
        self.tokens = Counter("evertune_answer_tokens", "Tokens that were answered", registry=self.registry)
        waiting = Gauge("evertune_waiting", "Questions that wait", registry=self.registry)
        waiting.set_function(lambda: len(batches))


def make_app(answering: Answering, *, name: str, limits: Limits | None = None, token: str | None = None) -> FastAPI:
    """The application.

    Args:
        answering: the model; used by one thread only.
        name: what clients call it.
        limits: what one server takes.
        token: what clients must send as `Authorization: Bearer ...`; None: nothing.
    """
    limits = limits or Limits()
    batches: Batches[Question, Reply] = Batches(answering, most=limits.batch, waiting=limits.waiting)
    measured = Measured(batches)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batches.close)

    app = FastAPI(title="evertune", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def counted(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await go_on(request)
        if request.url.path.startswith("/v1/"):
            measured.requests.labels(str(response.status_code)).inc()
        return response

    @app.exception_handler(RefusedError)
    async def refused(_: Request, problem: RefusedError) -> JSONResponse:
        return problem.response()

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "waiting": len(batches)}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(measured.registry), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        _admit(request, token)
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "evertune"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        _admit(request, token)
        started = time.perf_counter()
        asked = _parsed(await _body(request, limits.body))
        question = await asyncio.to_thread(_question, asked, answering, limits)
        reply = await _reply(batches, question)
        measured.seconds.observe(time.perf_counter() - started)
        measured.tokens.inc(reply.tokens)
        return _response(asked, reply, name=name)

    return app


def _response(asked: ChatRequest, reply: Reply, *, name: str) -> Response:
    """The answer as a whole, or as a stream."""
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
    if asked.stream:
        wants_usage = bool((asked.stream_options or {}).get("include_usage"))
        return StreamingResponse(_chunks(head, reply, wants_usage), media_type="text/event-stream")
    choice = {"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": _reason(reply)}
    body = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(reply)}
    return JSONResponse({**body, "evertune": {"expert": reply.expert}})


def _admit(request: Request, token: str | None) -> None:
    if token is not None and not same_token(bearer(request.headers.get("authorization", "")), token):
        raise RefusedError(401, "send the server's token as 'Authorization: Bearer ...'", code="invalid_api_key")


async def _body(request: Request, most: int) -> bytes:
    """The request's body, which is not read any further once it is too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise RefusedError(413, f"the request has more than {most >> 20} MiB: send a smaller picture", code="size")
        parts.append(part)
    return b"".join(parts)


def _parsed(body: bytes) -> ChatRequest:
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RefusedError(400, f"{place or 'the request'}: {first['msg']}", code="invalid") from problem


def _question(asked: ChatRequest, answering: Answering, limits: Limits) -> Question:
    try:
        question = Question(*question_of(asked), asked.longest(limits.tokens))
        answering.refuse(question)
    except UserError as problem:
        raise RefusedError(400, str(problem), code="invalid") from problem
    return question


async def _reply(batches: Batches[Question, Reply], question: Question) -> Reply:
    try:
        return await asyncio.wrap_future(batches.ask(question))
    except FullError as problem:
        raise RefusedError(429, "too many questions are waiting: ask again in a second", code="full") from problem
    except UserError as problem:
        raise RefusedError(400, str(problem), code="invalid") from problem


def _reason(reply: Reply) -> str:
    """Why an answer ends where it does, in the words of the protocol."""
    return "stop" if reply.finished else "length"


def _usage(reply: Reply) -> dict[str, int]:
    together = reply.asked_tokens + reply.tokens
    return {"prompt_tokens": reply.asked_tokens, "completion_tokens": reply.tokens, "total_tokens": together}


async def _chunks(head: dict[str, Any], reply: Reply, wants_usage: bool) -> AsyncIterator[str]:
    """Server-sent events: the answer word by word, as it is made in one go."""

    def event(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event({**head, "object": "chat.completion.chunk", "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    for number, word in enumerate(reply.text.split(" ")):
        yield event({"content": word if number == 0 else f" {word}"})
    yield event({}, _reason(reply))
    if wants_usage:
        yield _event({**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(reply)})
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
