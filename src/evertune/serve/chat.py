"""What a chat request says: pictures and question of its last message. Pictures come as data, never as links."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from evertune.errors import DataError
from evertune.tasks.pictures import picture_of_bytes

_DATA = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


class ImageUrl(BaseModel):
    """A picture as a data URL."""

    url: str


class TextPart(BaseModel):
    """Words."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(BaseModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None


class ChatRequest(BaseModel):
    """The fields that mean something here; others are taken and ignored, as answers are greedy."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1, le=1)
    stream_options: dict[str, Any] | None = None

    def longest(self, most: int) -> int:
        """How many tokens the answer may have."""
        return min(most, self.max_completion_tokens or self.max_tokens or most)


def question_of(request: ChatRequest) -> tuple[list[tuple[Image.Image, str]], str]:
    """(picture, its SHA-256) of the last message, and its words.

    The model answers single questions, as it was taught: what was said before is not read.

    Raises:
        DataError: the last message is not the user's, has no words, or a picture is a link or broken.
    """
    last = request.messages[-1]
    if last.role != "user":
        raise DataError("the last message must be the user's: it is the question")
    parts = [TextPart(type="text", text=last.content)] if isinstance(last.content, str) else last.content or []
    words = "\n".join(part.text for part in parts if isinstance(part, TextPart)).strip()
    if not words:
        raise DataError("the last message has no words: ask something")
    urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    return [_picture(url, number) for number, url in enumerate(urls, start=1)], words


def _picture(url: str, number: int) -> tuple[Image.Image, str]:
    origin = f"picture {number} of the message"
    match = _DATA.match(url)
    if match is None:
        raise DataError(f"{origin} must be a data URL (data:image/png;base64,...): nothing is fetched from links")
    try:
        content = base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError) as problem:
        raise DataError(f"{origin} is not valid base64") from problem
    return picture_of_bytes(content, where=origin)
