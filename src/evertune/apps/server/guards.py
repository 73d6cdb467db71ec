"""What every endpoint does around a request: who may ask, error objects for every failure, counts for /metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from evertune.apps.auth import bearer, names_this_machine, same_token
from evertune.apps.server.batches import Batches, FullError
from evertune.apps.server.errors import RefusedError
from evertune.apps.server.names import ServedModels, UnknownModelError, Variant
from evertune.utils.errors import RunFolderError, UserError

LOG = logging.getLogger("uvicorn.error")
T = TypeVar("T")


class ServerMetrics:
    """The values of `/metrics`."""

    def __init__(self, batches: Batches[Any, Any]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("evertune_requests", "Requests by status", ["status"], registry=self.registry)
        self.seconds = Histogram("evertune_request_seconds", "Seconds until an answer", registry=self.registry)
        self.tokens = Counter("evertune_answer_tokens", "Tokens that were answered", registry=self.registry)
        waiting = Gauge("evertune_waiting", "Questions that wait", registry=self.registry)
        waiting.set_function(lambda: len(batches))


def guarded_app(
    batches: Batches[Any, Any],
    measured: ServerMetrics,
    *,
    token: str | None,
    closing: Callable[[], Awaitable[None]] | None = None,
) -> FastAPI:
    """An application without routes but `/metrics`, whose every failure is an error object.

    Args:
        batches: closed at the end.
        measured: counts the requests.
        token: what clients must send; None: nothing.
        closing: called at the end.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batches.close)
        if closing:
            await closing()

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

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(measured.registry), media_type="text/plain; version=0.0.4")

    _add_error_replies(app)
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


def _refuse_other_names(request: Request, token: str | None) -> None:
    """Refuse requests of a page of another site whose host name resolves to this machine (DNS rebinding)."""
    if not token and not names_this_machine(request.headers.get("host", "")):
        raise RefusedError(403, "this server answers on 127.0.0.1 and localhost only", code="foreign_host")


def refuse_forms(request: Request) -> None:
    """Refuse requests that a page of another site can send without a CORS preflight: only JSON is accepted."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, "send the request as 'Content-Type: application/json'", code="content_type")


def admit(request: Request, token: str | None) -> None:
    """Refuse a caller without the token."""
    if token is not None and not same_token(bearer(request.headers.get("authorization", "")), token):
        raise RefusedError(401, "send the server's token as 'Authorization: Bearer ...'", code="invalid_api_key")


async def within_limits(made: Awaitable[T]) -> T:
    """Our errors as replies."""
    with errors_as_replies():
        return await made


@contextmanager
def errors_as_replies() -> Iterator[None]:
    """Inside of it, our errors become replies."""
    try:
        yield
    except FullError as problem:
        raise full() from problem
    except RunFolderError as problem:  # the folder's last stage can't answer
        raise RefusedError(503, str(problem), code="model_unavailable") from problem
    except UnknownModelError as problem:
        raise RefusedError(404, str(problem), code="model_not_found", param="model") from problem
    except UserError as problem:
        raise RefusedError(400, str(problem), code="invalid") from problem


def full() -> RefusedError:
    """A limit of the server is reached."""
    return RefusedError(429, "too many questions are waiting: ask again in a second", code="full")


def add_facts(
    app: FastAPI,
    *,
    name: str,
    token: str | None,
    health: Callable[[], Mapping[str, Any]],
    models: Callable[[], ServedModels],
    about: Callable[[Variant, ServedModels], Mapping[str, Any]],
) -> None:
    """What a client asks besides answers: health and models.

    Args:
        app: the application.
        name: what clients call the model.
        token: what clients must send.
        health: facts for `/health`.
        models: those that there are now.
        about: what is reported of one of them.
    """

    def described(called: str, variant: Variant, there: ServedModels) -> dict[str, Any]:
        return {"id": called, "object": "model", "owned_by": "evertune", **about(variant, there)}

    @app.get("/health")
    async def _health() -> JSONResponse:
        with errors_as_replies():
            return JSONResponse({"status": "ok", "model": name, **health()})

    @app.get("/v1/models")
    async def _models(request: Request) -> dict[str, Any]:
        admit(request, token)
        with errors_as_replies():
            there = models()
            return {"object": "list", "data": [described(*pair, there) for pair in there.named(name).items()]}

    @app.get("/v1/models/{wanted:path}")
    async def _model(request: Request, wanted: str) -> dict[str, Any]:
        admit(request, token)
        with errors_as_replies():
            there = models()
            return described(*there.find(wanted, name), there)
