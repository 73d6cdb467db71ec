"""A conversation as LLaVA, ShareGPT, LLaMA-Factory and OpenAI write it: `{from, value}` or `{role, content}` turns.

A content may be parts, `{type: text, text}` and `{type: image_url, image_url: {url}}`: an image becomes its mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evertune.data.placeholders import FILMS, IMAGE_MARK
from evertune.data.records import Record
from evertune.utils.errors import DataError

SYSTEM, USER, ASSISTANT = "system", "human", "gpt"
SPEAKERS = {"system": SYSTEM, "human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT}
KEYS = ("conversations", "messages")
SYSTEM_KEYS = ("system", "system_prompt")
IMAGE_PARTS = ("image", "image_url", "input_image")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation; its texts contain image marks.

    Attributes:
        system: the text before the first question; the instruction starts with it.
        questions, answers: alternating; a last question may have no answer.
        images: names of images inside the turns.
    """

    system: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Turn:
    speaker: str
    text: str
    images: tuple[str, ...]
    entry: Record
    key: str


def conversation_of(entry: Record) -> Conversation:
    """The turns of a row. An answer before the first question is dropped, as in LLaVA.

    Raises:
        DataError: the roles don't alternate, nothing is answered, or a turn has unsupported content.
    """
    key = next((key for key in KEYS if entry.has(key)), KEYS[0])
    turns = [_turn(one) for one in entry.entries(key)]
    system = [entry.text(key, blank=True) for key in SYSTEM_KEYS if entry.has(key)]
    while turns and turns[0].speaker == SYSTEM:
        system.append(turns.pop(0).text)
    if turns and turns[0].speaker == ASSISTANT:
        turns = turns[1:]
    for place, turn in enumerate(turns):
        wanted = (USER, ASSISTANT)[place % 2]
        if turn.speaker != wanted:
            raise turn.entry.wrong(turn.key, f"'{wanted}': the two take turns, 'human' first")
    if len(turns) < 2:
        raise DataError(f"{entry.origin}: '{key}' has no answered turn")
    return Conversation(
        "\n".join(text for text in system if text),
        tuple(turn.text for turn in turns[::2]),
        tuple(turn.text for turn in turns[1::2]),
        tuple(name for turn in turns for name in turn.images),
    )


def _turn(entry: Record) -> _Turn:
    who, what = ("role", "content") if entry.has("role") else ("from", "value")
    speaker = SPEAKERS.get(entry.text(who))
    if speaker is None:
        raise entry.wrong(who, "'human' or 'user', 'gpt' or 'assistant', or 'system'")
    if not isinstance(entry.value.get(what), list):
        return _Turn(speaker, entry.text(what, blank=speaker == SYSTEM), (), entry, who)
    parts = list(_parts(entry, what))
    text = "\n".join(text for text, _ in parts)
    return _Turn(speaker, text, tuple(name for _, name in parts if name), entry, who)


def _parts(entry: Record, key: str) -> Iterator[tuple[str, str]]:
    """Text and image name of each part of a content; a part without a name has its image in the row."""
    for part in entry.entries(key):
        kind = part.text("type")
        if kind in ("text", "input_text", "output_text"):
            yield part.text("text"), ""
        elif kind in IMAGE_PARTS:
            yield IMAGE_MARK, _name(part)
        elif kind in FILMS or kind.startswith("video"):
            raise DataError(f"{part.origin}: a part of the type '{kind}' is not read; images are", kind="video")
        else:
            raise part.wrong("type", "'text' or an image ('image', 'image_url')")


def _name(part: Record) -> str:
    for key in ("image_url", "image", "path", "url"):
        value: Any = part.value.get(key)
        if value is not None:
            return Record(value, part.origin).text("url") if isinstance(value, dict) else part.text(key)
    return ""
