"""The endpoint: `/v1/chat/completions` with images, streaming or not, `/v1/models`, `/health` and `/metrics`.

Every failure is answered with an error object (`errors.py`). Each reply names the stage that made it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from evertune.apps.auth import bearer, names_this_machine, same_token
from evertune.apps.server.batches import Batches, FullError
from evertune.apps.server.errors import RefusedError
from evertune.apps.server.generation import BatchGenerator, Question, Reply
from evertune.apps.server.reload import ServedStage
from evertune.apps.server.requests import Limits, RequestParser, refuse_unknown
from evertune.utils.errors import RunFolderError, UserError

LOG = logging.getLogger("uvicorn.error")
T = TypeVar("T")


class ServerMetrics:
    """The values of `/metrics`."""

    def __init__(self, batches: Batches[Question, Reply]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("evertune_requests", "Requests by status", ["status"], registry=self.registry)
        self.seconds = Histogram("evertune_request_seconds", "Seconds until an answer", registry=self.registry)
        self.tokens = Counter("evertune_answer_tokens", "Tokens that were answered", registry=self.registry)
        waiting = Gauge("evertune_waiting", "Questions that wait", registry=self.registry)
        waiting.set_function(lambda: len(batches))


def make_app(
    answering: BatchGenerator, *, name: str, limits: Limits | None = None, token: str | None = None
) -> FastAPI:
    """The application.

    Args:
        answering: generates the replies; used by one thread only.
        name: what clients call it.
        limits: of requests, memory and queue.
        token: what clients must send as `Authorization: Bearer ...`; None: nothing.
    """
    limits = limits or Limits()
    batches: Batches[Question, Reply] = Batches(
        answering, most=limits.batch, waiting=limits.waiting, idle=answering.idle
    )
    measured, intake = ServerMetrics(batches), RequestParser(answering, name, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batches.close)

    app = FastAPI(title="evertune", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def counted(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            _refuse_other_names(request, token)
            response = await go_on(request)
        except RefusedError as problem:
            response = problem.response()
        except ClientDisconnect:
            response = RefusedError(400, "the request is not complete", code="incomplete").response()
        except Exception:
            LOG.exception("%s %s", request.method, request.url.path)
            response = RefusedError(500, "the server failed: see its log", code="internal").response()
        if request.url.path.startswith("/v1/"):
            measured.requests.labels(str(response.status_code)).inc()
        return response

    _add_error_replies(app)
    _add_facts(app, answering, name=name, token=token, waiting=batches.__len__, registry=measured.registry)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        _admit(request, token)
        _refuse_forms(request)
        started = time.perf_counter()
        with intake.pixels.share() as pixels:
            parsed = await _within_limits(intake.parse(request.stream(), pixels))
            reply = await _within_limits(_reply(batches, parsed.question))
        measured.seconds.observe(time.perf_counter() - started)
        measured.tokens.inc(reply.tokens)
        return _response(reply, name=name, stream=parsed.stream, wants_usage=parsed.wants_usage)

    return app


def _add_error_replies(app: FastAPI) -> None:
    """Errors in the form that OpenAI's clients read."""

    @app.exception_handler(RefusedError)
    async def refused(_: Request, problem: RefusedError) -> JSONResponse:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def elsewhere(request: Request, problem: HTTPException) -> JSONResponse:
        where = f"{request.method} {request.url.path}"
        return RefusedError(problem.status_code, f"{where}: {problem.detail}", code="not_found").response()


def _add_facts(
    app: FastAPI,
    answering: BatchGenerator,
    *,
    name: str,
    token: str | None,
    waiting: Callable[[], int],
    registry: CollectorRegistry,
) -> None:
    """What a client asks besides answers: health, metrics, models."""

    @app.get("/health")
    async def health() -> JSONResponse:
        served = _served(answering)
        about = {"stage": served.stage, "task": served.task, "system_fingerprint": served.fingerprint}
        return JSONResponse({"status": "ok", "model": name, "waiting": waiting(), **about})

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        _admit(request, token)
        return {"object": "list", "data": [_model(name, _served(answering))]}

    @app.get("/v1/models/{wanted:path}")
    async def model(request: Request, wanted: str) -> dict[str, Any]:
        _admit(request, token)
        refuse_unknown(wanted, name)
        return _model(name, _served(answering))


def _response(reply: Reply, *, name: str, stream: bool, wants_usage: bool) -> Response:
    """The answer as a whole, or as a stream."""
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
    head |= {"system_fingerprint": reply.served.fingerprint}
    headers = {"X-Evertune-Stage": str(reply.served.stage)}
    if stream:
        chunks = _chunks(head, reply, wants_usage)
        return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)
    choice = {"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": _reason(reply)}
    body = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(reply)}
    about = {"expert": reply.expert, "stage": reply.served.stage, "task": reply.served.task}
    return JSONResponse({**body, "evertune": about}, headers=headers)


def _served(answering: BatchGenerator) -> ServedStage:
    try:
        return answering.served
    except RunFolderError as problem:
        raise _unavailable(problem) from problem


def _unavailable(problem: RunFolderError) -> RefusedError:
    return RefusedError(503, str(problem), code="model_unavailable")


def _model(name: str, served: ServedStage) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": served.created, "owned_by": "evertune"}


def _refuse_other_names(request: Request, token: str | None) -> None:
    """Refuse requests of a page of another site whose host name resolves to this machine (DNS rebinding)."""
    if not token and not names_this_machine(request.headers.get("host", "")):
        raise RefusedError(403, "this server answers on 127.0.0.1 and localhost only", code="foreign_host")


def _refuse_forms(request: Request) -> None:
    """Refuse requests that a page of another site can send without a CORS preflight: only JSON is accepted."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, "send the request as 'Content-Type: application/json'", code="content_type")


def _admit(request: Request, token: str | None) -> None:
    if token is not None and not same_token(bearer(request.headers.get("authorization", "")), token):
        raise RefusedError(401, "send the server's token as 'Authorization: Bearer ...'", code="invalid_api_key")


async def _reply(batches: Batches[Question, Reply], question: Question) -> Reply:
    return await asyncio.wrap_future(batches.ask(question))


async def _within_limits(made: Awaitable[T]) -> T:
    try:
        return await made
    except FullError as problem:
        raise RefusedError(429, "too many questions are waiting: ask again in a second", code="full") from problem
    except RunFolderError as problem:
        raise _unavailable(problem) from problem
    except UserError as problem:
        raise RefusedError(400, str(problem), code="invalid") from problem


def _reason(reply: Reply) -> str:
    """The protocol's `finish_reason`."""
    return "stop" if reply.finished else "length"


def _usage(reply: Reply) -> dict[str, int]:
    together = reply.prompt_tokens + reply.tokens
    return {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.tokens, "total_tokens": together}


async def _chunks(head: dict[str, Any], reply: Reply, wants_usage: bool) -> AsyncIterator[str]:
    """Server-sent events: the finished answer, sent word by word."""

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
