"""From a request's bytes to a question, with bounded memory: counts and headers first, pixels last, one at a time.

There is one limit for the bodies of all requests together and one for their decoded images; beyond it the reply is 429.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from evertune.apps.auth import LARGEST_BODY
from evertune.apps.server.batches import FullError
from evertune.apps.server.chat import ChatRequest, encoded_images, prompt_of, request_of
from evertune.apps.server.errors import RefusedError
from evertune.apps.server.generation import Question
from evertune.apps.server.names import ServedModels, Variant
from evertune.data.images import image_of_bytes, pixels_of_bytes
from evertune.utils.errors import DataError, UserError

MOST_VALUES = 50_000
"""Of a request's JSON: commas and brackets; as Python objects they take thirty times their bytes."""
MOST_TEXT = 1 << 20
"""Characters of all messages: more than any model reads, and counting tokens takes seconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server.

    Attributes:
        batch: questions answered at once.
        waiting: questions that may wait; beyond it the answer is 429.
        body: bytes of a request.
        tokens: of an answer.
        pixels: of the images of a request.
        all_bodies: bytes of requests that are being read; beyond it the answer is 429.
        all_pixels: of the images of all questions that wait or are answered; beyond it the answer is 429.
    """

    batch: int = 16
    waiting: int = 64
    body: int = LARGEST_BODY
    tokens: int = 64
    pixels: int = 25_000_000
    all_bodies: int = 4 * LARGEST_BODY
    all_pixels: int = 50_000_000


class Budget:
    """A budget shared by concurrent requests; for one event loop."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, amount: int) -> None:
        """Take a share.

        Raises:
            FullError: the rest of the budget is too small.
        """
        if amount > self._left:
            raise FullError
        self._left -= amount

    @contextmanager
    def share(self) -> Iterator[BudgetShare]:
        """A share that can grow and is released at the end."""
        share = BudgetShare(self)
        try:
            yield share
        finally:
            self._left += share.size


class BudgetShare:
    """A share of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self.size = budget, 0

    def add(self, amount: int) -> None:
        """Take more, or raise `FullError`."""
        self._budget.take(amount)
        self.size += amount


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A question, the model's name, and the requested form of its reply; the rest of the request is dropped."""

    question: Question
    model: str
    stream: bool
    wants_usage: bool


class Answering(Protocol):
    """What a request is checked against."""

    @property
    def models(self) -> ServedModels:
        """The models that there are."""

    def refuse_number(self, images: int) -> None:
        """Refuse a wrong number of images."""

    def refuse(self, question: Question) -> None:
        """Refuse a question that can't be taken."""


class RequestParser:
    """Turns requests into questions.

    Args:
        answering: checks what the model takes.
        name: of the model.
        limits: of the server.
        reads: the fields of a request.
    """

    def __init__(
        self,
        answering: Answering,
        name: str,
        limits: Limits,
        *,
        reads: Callable[[bytes | bytearray], ChatRequest] = request_of,
    ) -> None:
        self._answering, self._name, self._limits, self._reads = answering, name, limits, reads
        self.bodies, self.pixels = Budget(limits.all_bodies), Budget(limits.all_pixels)
        self._one = asyncio.Lock()

    async def parse(self, stream: Any, pixels: BudgetShare) -> ParsedRequest:
        """Parse a request into a question.

        Args:
            stream: parts of its body.
            pixels: the share for its images, held by the caller until they are answered.

        Raises:
            RefusedError: it is invalid or not supported. UnknownModelError: there is no such model.
            FullError: the server is at a limit.
        """
        with self.bodies.share() as share:
            return await self.parsed(await self.body(stream, share), pixels)

    async def parsed(self, body: bytearray, pixels: BudgetShare) -> ParsedRequest:
        """`parse` of a body that is there."""
        async with self._one:
            request, images, model, variant = await asyncio.to_thread(self._parsed, body)
            try:
                pixels.add(await asyncio.to_thread(self._pixels, images))
                question = await asyncio.to_thread(self._decoded, request, images, variant)
                options = request.stream_options
                return ParsedRequest(question, model, bool(request.stream), bool(options and options.include_usage))
            except UserError as problem:
                raise RefusedError(400, str(problem), code="invalid") from problem

    async def body(self, stream: Any, share: BudgetShare) -> bytearray:
        """The body of a request; reading stops once it is too long.

        Raises:
            RefusedError: it is too long. FullError: the server is at a limit.
        """
        body = bytearray()
        async for part in stream:
            if len(body) + len(part) > self._limits.body:
                most = self._limits.body >> 20
                raise RefusedError(413, f"the request has more than {most} MiB: send a smaller image", code="size")
            share.add(len(part))
            body += part
        return body

    def _parsed(self, body: bytearray) -> tuple[ChatRequest, list[bytes], str, Variant]:
        if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
            raise RefusedError(400, f"the request has more than {MOST_VALUES:,} values: shorten it", code="size")
        request = self._reads(body)
        model, variant = self._answering.models.find(request.model, self._name)
        try:
            if sum(len(message.text) for message in request.messages) > MOST_TEXT:
                raise DataError(f"the messages have more than {MOST_TEXT:,} characters: shorten them")
            self._answering.refuse_number(sum(len(message.urls) for message in request.messages))
            return request, list(encoded_images(request)), model, variant
        except UserError as problem:
            raise RefusedError(400, str(problem), code="invalid") from problem

    def _pixels(self, images: list[bytes]) -> int:
        each = (pixels_of_bytes(content, where=_name(number)) for number, content in enumerate(images, start=1))
        pixels, most = sum(each), self._limits.pixels
        if pixels > most:
            raise DataError(
                f"the images have {pixels:,} pixels together; at most {most:,} are taken: make them smaller"
            )
        return pixels

    def _decoded(self, request: ChatRequest, images: list[bytes], variant: Variant) -> Question:
        words, context = prompt_of(request)
        decoded = [image_of_bytes(content, where=_name(number)) for number, content in enumerate(images, start=1)]
        longest = request.longest(self._limits.tokens)
        question = Question(decoded, words, longest, stops=request.stops, context=context, variant=variant)
        self._answering.refuse(question)
        return question


def _name(number: int) -> str:
    return f"image {number} of the messages"
