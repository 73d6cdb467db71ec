"""Opens images, in the same way in training and evaluation, under limits against hostile files.

The EXIF rotation is applied, transparency becomes white, an animation its first frame, and CMYK, palette and 16-bit
images 8-bit RGB. Too large images are refused by their header, before a pixel is decoded. Ordinary JPEG,
PNG and WebP are decoded in this process, everything else in a process of limited memory and time (`image_decoder.py`).
"""

from __future__ import annotations

import errno
import hashlib
import re
import signal
from pathlib import Path
from typing import Any

from PIL import Image

from evertune.data import image_decoder
from evertune.data.image_decoder import ImageError
from evertune.data.ordinary_images import is_ordinary
from evertune.utils.errors import DataError
from evertune.utils.regular_files import read_regular
from evertune.utils.safe_names import leads_out
from evertune.utils.worker_process import WorkerEndedError, pool_of

MOST_BYTES = 256 << 20
LONGEST_NAME = 4096

_inside_of_row = re.compile(r"data:image/|(/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/=\s]{60}")
"""An image in base64: a data URL, or JPEG, PNG, GIF and WebP by their first bytes."""


def open_image(path: Path, *, origin: str) -> Image.Image:
    """The image as RGB.

    Raises:
        DataError: it is missing, broken, too large or no image; the message begins with `origin`.
    """
    return read_image(path, origin=origin)[0]


def read_image(path: Path, *, origin: str) -> tuple[Image.Image, str]:
    """The image as RGB, and the SHA-256 of the bytes that it was decoded from.

    Raises:
        DataError: it is missing, broken, too large or no image; the message begins with `origin`.
    """
    return image_of_bytes(read_bytes(path, origin=origin), where=f"{origin}: the image {path}")


def image_of_bytes(content: bytes, *, where: str) -> tuple[Image.Image, str]:
    """The image of a file's content as RGB, and the SHA-256 of the content.

    Raises:
        DataError: it is broken, too large or no image; the message begins with `where`.
    """
    return _decoded("rgb", content, where), hashlib.sha256(content).hexdigest()


def size_of(path: Path, *, origin: str) -> tuple[int, int]:
    """(height, width) of the image as `open_image` gives it, from its header.

    Raises:
        DataError: it is missing, too large, or no image.
    """
    found = _decoded("measured", read_bytes(path, origin=origin), f"{origin}: the image {path}")
    return found["height"], found["width"]


def pixels_of_bytes(content: bytes, *, where: str) -> int:
    """How many pixels a file's content has, from its header: none is decoded.

    Raises:
        DataError: it is no image; the message begins with `where`.
    """
    found = _decoded("described", content, where)
    return int(found["width"] * found["height"])


def format_of(content: bytes, *, where: str) -> str:
    """The format of an image by its content, as Pillow calls it: `PNG`, `JPEG`, ...

    Raises:
        DataError: it is none of `KINDS`.
    """
    return str(_decoded("described", content, where)["format"])


def small_image(path: Path, *, side: int) -> Image.Image:
    """The image as RGBA and at most `side` pixels wide and high, to be looked at.

    Raises:
        DataError: as `open_image`.
    """
    return _decoded("thumbnail", read_bytes(path, origin="to show"), str(path), side=side)  # type: ignore[no-any-return]


def _decoded(action: str, content: bytes, where: str, **options: Any) -> Any:
    """Run an action of `image_decoder` on a file's content; every failure is a `DataError`."""
    if not content:
        raise DataError(f"{where} is empty (0 bytes)", kind="broken image")
    try:
        if is_ordinary(content):
            return image_decoder.decoded(action, content, **options)
        return _decoded_elsewhere(action, content, options)
    except ImageError as problem:
        raise DataError(f"{where} {problem}", kind=problem.kind) from problem


def _decoded_elsewhere(action: str, content: bytes, options: dict[str, Any]) -> Any:
    """As `image_decoder.decoded`, in a process of limited memory and time."""
    try:
        found, pixels = pool_of(Path(image_decoder.__file__)).ask({"action": action, "options": options}, content)
    except WorkerEndedError as problem:
        if problem.signal == signal.SIGPROF:
            raise ImageError("takes far more time to decode than an image of its size", "image too large") from problem
        raise ImageError(f"is broken: its decoder ended (signal {problem.signal})") from problem
    if "error" in found:
        raise ImageError(found["error"], found["kind"])
    if action in ("rgb", "thumbnail"):
        return Image.frombytes(found["mode"], (found["width"], found["height"]), pixels)
    return found


def read_bytes(path: Path, *, origin: str) -> bytes:
    """The file's content.

    Raises:
        DataError: it is missing, unreadable or larger than any image should be.
    """
    try:
        return read_regular(path, most=MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise DataError(f"{origin}: the image {path} does not exist", kind="missing image") from problem
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        kind = "image too large" if getattr(problem, "errno", None) == errno.EFBIG else "missing image"
        raise DataError(f"{origin}: the image {path} can't be read: {reason}", kind=kind) from problem


def unprepared(size: tuple[int, int], reason: object) -> DataError:
    """The error for an image of this (height, width) that a model can't prepare; the caller names the row."""
    height, width = size
    complaint = f"an image of {width:,} x {height:,} pixels can't be prepared for the model: {reason}"
    return DataError(complaint, kind="image that can't be prepared")


def image_name(name: str, *, allow_external_paths: bool, origin: str) -> str:
    """`name` if it is a valid path of an image below a root; with `allow_external_paths` it may be outside.

    Raises:
        DataError: it is empty, absolute, leads out of the root, or can be no file's name.
    """
    kind = "unusable image name"
    if not name.strip():
        raise DataError(f"{origin}: the name of an image is empty", kind=kind)
    if _inside_of_row.match(name):
        complaint = f"{origin}: the image {short(name, longest=30)} is written into the row, and a name is read here"
        raise DataError(f"{complaint}: save it as a file, or the rows as a table (CSV, TSV, Parquet)", kind=kind)
    if name.startswith(("http://", "https://")):
        raise DataError(f"{origin}: the image {short(name)} is an address: download it, and name the file", kind=kind)
    if "\0" in name or len(name) > LONGEST_NAME:
        raise DataError(f"{origin}: {short(name)} can't be the name of an image", kind=kind)
    if not allow_external_paths and leads_out(name):
        raise DataError(
            f"{origin}: the image {short(name)} lies outside of the images' folder; move it there or set 'images', "
            "or say 'allow_external_paths: true' in the task",
            kind="image outside",
        )
    return name


def short(text: str, *, longest: int = 80) -> str:
    """A text from a file for a message: quoted, one line, shortened."""
    text = text if len(text) <= longest else text[:longest] + "…"
    return f"'{text}'" if text.isprintable() else repr(text)
