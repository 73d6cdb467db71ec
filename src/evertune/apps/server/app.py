"""The endpoint: `/v1/chat/completions` with images, streaming or not, `/v1/models`, `/health` and `/metrics`.

Every failure is answered with an error object (`errors.py`). Each reply names the stage that made it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from evertune.apps.server.batches import Batches
from evertune.apps.server.generation import BatchGenerator, Question, Reply
from evertune.apps.server.guards import (
    ServerMetrics,
    add_facts,
    admit,
    guarded_app,
    refuse_forms,
    within_limits,
)
from evertune.apps.server.names import ServedModels, Variant
from evertune.apps.server.requests import Limits, RequestParser


def make_app(
    answering: BatchGenerator, *, name: str, limits: Limits | None = None, token: str | None = None
) -> FastAPI:
    """The application.

    Args:
        answering: generates the replies; used by one thread only.
        name: what clients call it; `names.py` has those of its stages.
        limits: of requests, memory and queue.
        token: what clients must send as `Authorization: Bearer ...`; None: nothing.
    """
    limits = limits or Limits()
    batches: Batches[Question, Reply] = Batches(
        answering,
        most=limits.batch,
        waiting=limits.waiting,
        idle=answering.idle,
        key=lambda question: question.variant,
    )
    measured, intake = ServerMetrics(batches), RequestParser(answering, name, limits)

    app = guarded_app(batches, measured, token=token)

    def health() -> dict[str, Any]:
        served = answering.served
        about = {"stage": served.stage, "task": served.task, "system_fingerprint": served.fingerprint}
        return {"waiting": len(batches), **about}

    def models() -> ServedModels:
        _ = answering.served  # an error where the folder is damaged
        return answering.models

    add_facts(app, name=name, token=token, health=health, models=models, about=_about)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        admit(request, token)
        refuse_forms(request)
        started = time.perf_counter()
        with intake.pixels.share() as pixels:
            parsed = await within_limits(intake.parse(request.stream(), pixels))
            reply = await within_limits(_reply(batches, parsed.question))
        measured.seconds.observe(time.perf_counter() - started)
        measured.tokens.inc(reply.tokens)
        return _response(reply, name=parsed.model, stream=parsed.stream, wants_usage=parsed.wants_usage)

    return app


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


def _about(variant: Variant, there: ServedModels) -> dict[str, Any]:
    served = there.of(variant)
    about = {"stage": served.stage, "task": served.task, "expert": variant.expert}
    return {"created": served.created, "evertune": about}


async def _reply(batches: Batches[Question, Reply], question: Question) -> Reply:
    return await asyncio.wrap_future(batches.ask(question))


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
