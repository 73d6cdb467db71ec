"""Images inside a data file, as bytes or base64: written into the cache once, unchanged.

Each is named by the hash of its content, below `folder()`. Parquet of the hub has `{bytes, path}`; VLMEvalKit's tables
have base64, a list of them, or the `index` of a row above that has the same image.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sized
from pathlib import Path
from typing import Any

from evertune.data.images import short
from evertune.utils.errors import DataError
from evertune.utils.files import cache_folder, make_folder, write_atomically

MOST_IMAGES = 256
"""Most images of a row. Rows may refer to each other's images: without a bound, lists of two references double them
with
each row."""
LONGEST_INDEX = 64
"""Most characters of the index of a row, as VLMEvalKit uses it."""
_signs = r"(/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkq|TU0AK)"
_base64 = re.compile(rf"(data:image/[\w.+-]+;base64,)?({_signs}[A-Za-z0-9+/\s]{{60,}}+|[A-Za-z0-9+/\s]{{1024,}}+)=*")
"""JPEG, PNG, GIF, WebP and TIFF by their first bytes, and any text that is longer than a file name."""


def folder() -> Path:
    """Where these images are written."""
    return make_folder(cache_folder() / "images")


def kept(content: bytes) -> str:
    """The name of an image below `folder()`; it is written unless it is there already."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder() / digest[:2] / digest
    if not path.exists():
        write_atomically(path, content)
    return f"{digest[:2]}/{digest}"


def is_inside(value: Any) -> bool:
    """Whether a cell holds an image itself: bytes, `{bytes}`, base64, or a list of these."""
    if isinstance(value, dict):
        return isinstance(value.get("bytes"), bytes)
    if isinstance(value, str):
        return any(_is_base64(part) for part in parts_of(value)[:1])
    return isinstance(value, bytes) or (isinstance(value, list) and bool(value) and is_inside(value[0]))


def parts_of(text: str) -> list[str]:
    """The images of a cell of text: one, or those of a list written as Python does; of a long list, too many."""
    if text.startswith("[") and text.endswith("]"):
        return [part.strip().strip("'\"") for part in text[1:-1].split(",", MOST_IMAGES) if part.strip()]
    return [text]


def refuse_many_images(images: Sized, origin: str) -> None:
    """Raise a `DataError` for a row of more than `MOST_IMAGES`."""
    if len(images) > MOST_IMAGES:
        raise DataError(f"{origin}: more than {MOST_IMAGES} images", kind="too many images")


class EmbeddedImages:
    """Writes the images of a table's cells; rows may name the `index` of a row above that has the same."""

    def __init__(self) -> None:
        self._by_index: dict[str, tuple[str, ...]] = {}

    def names(self, value: Any, *, index: Any, origin: str) -> tuple[str, ...]:
        """Names of the images in a cell, below `folder()`.

        Raises:
            DataError: the cell holds something else, or more than `MOST_IMAGES`.
        """
        cells = value if isinstance(value, list) else parts_of(value) if isinstance(value, str) else [value]
        refuse_many_images(cells, origin)
        names: list[str] = []
        for cell in cells:
            names += self._names(cell, origin)
            refuse_many_images(names, origin)
        if index is not None:
            self._by_index[str(index)] = tuple(names)
        return tuple(names)

    def _names(self, cell: Any, origin: str) -> tuple[str, ...]:
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(content, bytes):
            return (kept(content),)
        if isinstance(content, str) and _is_base64(content):
            return (kept(_decoded(content, origin)),)
        index = str(content)
        if len(index) <= LONGEST_INDEX and index in self._by_index:
            return self._by_index[index]
        complaint = f"{origin}: {short(index)} is neither an image nor the 'index' of a row above that has one"
        raise DataError(f"{complaint}; the first row of the table has its image inside", kind="unusable image")


def _is_base64(text: str) -> bool:
    return bool(_base64.fullmatch(text.strip()))


def _decoded(text: str, origin: str) -> bytes:
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=False)
    except (binascii.Error, ValueError) as problem:
        complaint = f"{origin}: the image is no base64 ({problem}); was it cut off?"
        raise DataError(complaint, kind="broken image") from problem
