"""Own data: `{image | images, instruction, answer | answers, id, extras}`, one object a line (or a JSON list of them).

Built-in tasks have this format too. `extras` holds other fields that a score needs, as texts. Image paths are relative
to the file's folder, or to `images:`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evertune.data.formats import Row
from evertune.data.images import short
from evertune.data.layouts import layout_of
from evertune.data.reading import read_entries
from evertune.data.records import rows_from, shown
from evertune.utils.errors import DataError, nearest

ABOUT = {
    "title": "own data: {image | images, instruction, answer | answers, id, extras}, one JSON object a line",
    "source": "you",
    "files": "a .jsonl file beside a folder of images; `id` may be left out, `answers` is a list when several are "
    "right, the model trains on the first; `extras` are texts that a score needs",
    "licence": "yours",
    "citation": "none",
}
PROMPT = "{instruction}"
KEYS = {"image", "images", "instruction", "answer", "answers", "id", "extras"}


def rows(place: Path, *, split: str) -> Iterator[Row | DataError]:
    """A row per object; without an `id` it is called by its number. Both splits are read alike."""
    del split
    return rows_from(read_entries(place), lambda entry: [_row(entry.value, entry.origin, entry.key)])


def files(place: Path, *, split: str) -> list[Path]:
    """The file itself."""
    del split
    return [place]


def _row(value: Mapping[str, Any], origin: str, number: str) -> Row:
    if stray := sorted(value.keys() - KEYS):
        if found := layout_of(value):
            raise DataError(f"{origin}: {found}", kind="another layout")
        complaint = f"{origin}: unknown key {short(stray[0])}; {nearest(stray[0], KEYS)}"
        raise DataError(complaint, kind="unknown key")
    return Row(
        id=_id(value, origin, number),
        images=_images(value, origin),
        fields={"instruction": _text(value.get("instruction"), "instruction", origin)},
        answers=_answers(value, origin),
        origin=origin,
        extras=_extras(value.get("extras", {}), origin),
    )


def _extras(value: Any, origin: str) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise DataError(f"{origin}: 'extras' must be an object of texts", kind="unusable extras")
    return value


def _id(value: Mapping[str, Any], origin: str, number: str) -> str:
    found = value.get("id", number)
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise DataError(f"{origin}: 'id' must be a text or a whole number", kind="unusable id")
    return str(found)


def _images(value: Mapping[str, Any], origin: str) -> tuple[str, ...]:
    if "image" in value and "images" in value:
        raise DataError(f"{origin}: a row has either 'image' (a name) or 'images' (a list)", kind="unusable image name")
    if "images" in value:
        if not isinstance(value["images"], list):
            raise DataError(f"{origin}: 'images' must be a list", kind="unusable images")
        return tuple(_text(name, "images", origin) for name in value["images"])
    return (_text(value["image"], "image", origin),) if value.get("image") is not None else ()


def _answers(value: Mapping[str, Any], origin: str) -> tuple[str, ...]:
    if ("answer" in value) == ("answers" in value):
        raise DataError(
            f"{origin}: a row has either 'answer' (a text) or 'answers' (a list of texts)", kind="unusable answer"
        )
    if "answer" in value:
        return (_text(value["answer"], "answer", origin),)
    answers = value["answers"]
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{origin}: 'answers' must be a list with at least one text", kind="unusable answers")
    # An annotator's answer may be empty, the training target must not.
    return (_text(answers[0], "answers", origin), *(_text(a, "answers", origin, blank=True) for a in answers[1:]))


def _text(value: Any, key: str, origin: str, *, blank: bool = False) -> str:
    if not isinstance(value, str) or not (blank or value.strip()):
        complaint = f"{origin}: '{key}' must be a text that is not empty, not {shown(value)}"
        raise DataError(complaint, kind=f"unusable {key}")
    return value.strip()
