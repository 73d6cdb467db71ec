"""The fields of a chat request. A field that would change the reply but is not supported is refused.

Images come as data, never as links. docs/service.md lists every field.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evertune.apps.server.errors import RefusedError
from evertune.models.protocol import Turn
from evertune.utils.errors import DataError

_DATA = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
MOST_STOPS, LONGEST_STOP = 4, 1000

ONLY: dict[str, tuple[Any, ...]] = {
    "temperature": (0,),
    "top_p": (1,),
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
"""Fields with the only values that are supported (greedy generation of plain text). null counts as absent."""
ANY = {
    "seed",
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
}
"""Fields that are accepted and ignored, because no reply depends on them: there is no sampling and no tool call."""
GREEDY = {"temperature", "top_p", "n", "presence_penalty", "frequency_penalty", "logit_bias"}


class Part(BaseModel):
    """Unknown fields of a request are refused unless they are empty."""

    model_config = ConfigDict(extra="allow")


class ImageUrl(Part):
    """An image as a data URL. `detail` is about OpenAI's resolutions; here each model has its own."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(Part):
    """Words."""

    type: Literal["text"]
    text: str


class ImagePart(Part):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(Part):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None

    @property
    def text(self) -> str:
        """Its words."""
        if not isinstance(self.content, list):
            return (self.content or "").strip()
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart)).strip()

    @property
    def urls(self) -> list[str]:
        """Of its images."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(Part):
    """How a reply is streamed."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class ChatRequest(BaseModel):
    """The fields that decide a reply; `ONLY` and `ANY` say what else is taken."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None

    def longest(self, most: int) -> int:
        """The most tokens of the reply: the requested number, at most `most`."""
        return min(most, self.max_completion_tokens or self.max_tokens or most)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which the reply ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def forwarded_request_of(body: bytes | bytearray) -> ChatRequest:
    """Parse a request that another server will answer: its other fields are that server's.

    Raises:
        RefusedError: it is no JSON, or a value of what is read here has a wrong type.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as problem:
        raise _misread(problem) from problem


def request_of(body: bytes | bytearray) -> ChatRequest:
    """Parse a request and check that all its fields are supported.

    Raises:
        RefusedError: it is no JSON, a value has a wrong type, or a field is not supported.
    """
    request = forwarded_request_of(body)
    for name, value in (request.model_extra or {}).items():
        _refuse_field(name, value)
    for place in _strangers(request):
        raise RefusedError(400, f"{place} is not offered: leave it out", code="unsupported_parameter", param=place)
    if len(request.stops) > MOST_STOPS or "" in request.stops:
        raise RefusedError(400, f"stop: 1 to {MOST_STOPS} texts, none of them empty", code="invalid", param="stop")
    if any(len(stop) > LONGEST_STOP for stop in request.stops):  # a question holds them while it waits
        message = f"stop: at most {LONGEST_STOP:,} characters each: shorten them"
        raise RefusedError(400, message, code="invalid", param="stop")
    if request.stream_options and not request.stream:
        raise RefusedError(400, "stream_options: only with stream=true", code="invalid", param="stream_options")
    return request


def _misread(problem: ValidationError) -> RefusedError:
    """The error for invalid JSON or a wrong type; of a union's errors the one that is nested deepest."""
    deepest = max(problem.errors(include_url=False, include_input=False), key=lambda error: len(error["loc"]))
    parts = (str(part) for part in deepest["loc"])
    place = ".".join(part for part in parts if re.fullmatch(r"[a-z_0-9]+", part)).removesuffix(".str")
    return RefusedError(400, f"{place or 'the request'}: {deepest['msg']}", code="invalid", param=place or None)


def _refuse_field(name: str, value: Any) -> None:
    """Refuse a field that would change the reply but is not supported."""
    if value is None or name in ANY:
        return
    if name not in ONLY:
        raise RefusedError(400, f"unknown field '{name}': leave it out", code="unknown_parameter", param=name)
    taken = ONLY[name]
    if any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in taken):
        return
    why = "replies are greedy" if name in GREEDY else "not offered"
    instead = f" or send {' or '.join(map(repr, taken))}" if taken else ""
    raise RefusedError(400, f"{name}: {why}; leave it out{instead}", code="unsupported_value", param=name)


def _strangers(request: ChatRequest) -> Iterator[str]:
    """Unknown fields of a request that are not empty."""

    def of(part: Part, where: str) -> Iterator[str]:
        yield from (f"{where}.{name}" for name, value in (part.model_extra or {}).items() if value)

    if request.stream_options:
        yield from of(request.stream_options, "stream_options")
    for number, message in enumerate(request.messages):
        yield from of(message, where := f"messages.{number}")
        for place, part in enumerate(message.content if isinstance(message.content, list) else ()):
            yield from of(part, f"{where}.content.{place}")
            if isinstance(part, ImagePart):
                yield from of(part.image_url, f"{where}.content.{place}.image_url")


def prompt_of(request: ChatRequest) -> tuple[str, tuple[Turn, ...]]:
    """The text of the last message, and the turns before it.

    Raises:
        DataError: the last message is not the user's, or one has no words.
    """
    *before, last = request.messages
    if last.role != "user":
        raise DataError("the last message must be the user's: it is the question")
    context = tuple(_turn(message, number) for number, message in enumerate(before, start=1) if not _is_empty(message))
    if not last.text:
        raise DataError("the last message has no words: ask something")
    return last.text, context


def encoded_images(request: ChatRequest) -> Iterator[bytes]:
    """The image files of all messages, in order; no pixel is decoded.

    Raises:
        DataError: one is a link, or no base64.
    """
    urls = (url for message in request.messages for url in message.urls)
    return (_content(url, number) for number, url in enumerate(urls, start=1))


def _is_empty(message: Message) -> bool:
    """An empty system prompt, which some clients send, is dropped."""
    return message.role in ("system", "developer") and not message.text and not message.urls


def _turn(message: Message, number: int) -> Turn:
    if not message.text:
        raise DataError(f"message {number} has no words: leave it out")
    role: Literal["system", "user", "assistant"] = "system" if message.role == "developer" else message.role
    if message.urls and role != "user":
        raise DataError(f"message {number}: only the user's messages have images")
    return Turn(role, message.text, len(message.urls))


def _content(url: str, number: int) -> bytes:
    origin = f"image {number} of the messages"
    match = _DATA.match(url)
    if match is None:
        raise DataError(f"{origin} must be a data URL (data:image/png;base64,...): nothing is fetched from links")
    try:
        return base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError) as problem:
        raise DataError(f"{origin} is not valid base64") from problem
