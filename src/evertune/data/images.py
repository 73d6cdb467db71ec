"""Open an image, the same way in training and in evaluation, under limits that a hostile file can't pass.

As a person sees it: EXIF rotation applied, transparency on white, the first frame of an animation, CMYK, palette and
16-bit images as 8-bit RGB. What is too large is refused from its header, before a pixel is decoded.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from evertune.utils.errors import DataError
from evertune.utils.regular_files import read_regular
from evertune.utils.safe_names import leads_out

Made = TypeVar("Made")
MOST_PIXELS = 89_478_485
"""Pillow's own limit for a warning: a quarter of a gigabyte as RGB."""
MOST_BYTES = 256 << 20
LONGEST_NAME = 4096
BAND = 256
"""Rows that are converted at once, so that a large image is not in memory several times."""
# Raster formats only: Pillow would hand PostScript to an interpreter. No icons: Pillow decodes them to know their size.
KINDS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")

_inside_of_row = re.compile(r"data:image/|(/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/=\s]{60}")
"""An image in base64: a data URL, or JPEG, PNG, GIF and WebP by their first bytes."""
_headers = threading.Lock()  # `warnings.catch_warnings` is not safe among threads


def open_image(path: Path, *, origin: str) -> Image.Image:
    """The image as RGB.

    Raises:
        DataError: it is missing, broken, too large or no image; the message begins with `origin`.
    """
    return read_image(path, origin=origin)[0]


def read_image(path: Path, *, origin: str) -> tuple[Image.Image, str]:
    """The image as RGB, and the SHA-256 of the very bytes it was made from.

    Raises:
        DataError: it is missing, broken, too large or no image; the message begins with `origin`.
    """
    return image_of_bytes(read_bytes(path, origin=origin), where=f"{origin}: the image {path}")


def image_of_bytes(content: bytes, *, where: str) -> tuple[Image.Image, str]:
    """The image of a file's content as RGB, and the SHA-256 of the content.

    Raises:
        DataError: it is broken, too large or no image; the message begins with `where`.
    """
    return _guarded(content, where, lambda: _as_rgb(_upright(content, where), where)), hashlib.sha256(
        content
    ).hexdigest()


def size_of(path: Path, *, origin: str) -> tuple[int, int]:
    """(height, width) of the image as `open_image` gives it, from its header.

    Raises:
        DataError: it is missing, too large, or no image.
    """
    content, where = read_bytes(path, origin=origin), f"{origin}: the image {path}"

    def measure() -> tuple[int, int]:
        with _header(content) as image:
            _refuse_bomb(image, where)  # for the orientation of a PNG Pillow decodes it
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)

    return _guarded(content, where, measure)


def pixels_of_bytes(content: bytes, *, where: str) -> int:
    """How many pixels a file's content has, from its header: none is decoded.

    Raises:
        DataError: it is no image; the message begins with `where`.
    """

    def count() -> int:
        with _header(content) as image:
            return image.width * image.height

    return _guarded(content, where, count)


def format_of(content: bytes, *, where: str) -> str:
    """The format of an image by its content, as Pillow calls it: `PNG`, `JPEG`, ...

    Raises:
        DataError: it is none of `KINDS`.
    """

    def read() -> str:
        with _header(content) as image:
            return image.format or ""

    return _guarded(content, where, read)


def small_image(path: Path, *, side: int) -> Image.Image:
    """The image as RGBA and at most `side` pixels wide and high, to be looked at.

    Raises:
        DataError: as `open_image`.
    """
    content = read_bytes(path, origin="to show")

    def decode() -> Image.Image:
        image = _upright(content, str(path), draft=2 * side)
        deep = image.mode.startswith("I") or image.mode == "F"
        shown = (_from_deep(image, str(path)) if deep else image).convert("RGBA")
        shown.thumbnail((side, side))
        return shown

    return _guarded(content, str(path), decode)


def _guarded(content: bytes, where: str, decode: Callable[[], Made]) -> Made:
    """What `decode` makes of a file's content; whatever goes wrong is a `DataError`."""
    if not content:
        raise DataError(f"{where} is empty (0 bytes)", kind="broken image")
    try:
        return decode()
    except DataError:
        raise
    except Image.DecompressionBombError as problem:
        complaint = f"{where} has far more than {MOST_PIXELS:,} pixels, the most that are decoded: make it smaller"
        raise DataError(complaint, kind="image too large") from problem
    except UnidentifiedImageError as problem:
        raise DataError(f"{where} is broken or not an image (no known format)", kind="broken image") from problem
    except Exception as problem:  # what decoders raise on damaged files is not a closed list
        raise DataError(f"{where} is broken or not an image ({problem})", kind="broken image") from problem


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


def _upright(content: bytes, where: str, *, draft: int = 0) -> Image.Image:
    """The decoded image in its own mode; with `draft`, of a large JPEG a smaller one that is at least so wide."""
    from PIL import ImageOps

    with _header(content) as image:
        _refuse_bomb(image, where)
        if draft:
            image.draft("RGB", (draft, draft))
        image.load()
        return ImageOps.exif_transpose(image)


def _refuse_bomb(image: Image.Image, where: str) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        complaint = f"{where} has {width} x {height} pixels; at most {MOST_PIXELS:,} are decoded: make it smaller"
        raise DataError(complaint, kind="image too large")


def _header(content: bytes) -> Image.Image:
    """The image before its pixels are decoded."""
    with _headers, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its size: that is looked at next
        Image.init()
        return Image.open(io.BytesIO(content), formats=[kind for kind in KINDS if kind in Image.OPEN])


def _as_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image, where).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    made = Image.new("RGB", image.size)
    for top in range(0, image.height, BAND):  # at once it would be three more copies
        layer = image.crop((0, top, image.width, min(top + BAND, image.height))).convert("RGBA")
        made.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), (0, top))
    return made


def _from_deep(image: Image.Image, where: str) -> Image.Image:
    """8-bit grey of 16-bit grey: 65535 is white. Pillow's own conversion would cut off everything above 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        complaint = f"{where} has values of 32 bits (mode {image.mode}), whose white level is unknown: save it with 8"
        raise DataError(complaint, kind="broken image")
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), BAND):
        grey[top : top + BAND] = np.round(values[top : top + BAND].astype(np.float32) / 257)
    return Image.fromarray(grey)


def unprepared(size: tuple[int, int], reason: object) -> DataError:
    """The error for an image of this (height, width) that a model can't prepare; the caller names the row."""
    height, width = size
    complaint = f"an image of {width:,} x {height:,} pixels can't be prepared for the model: {reason}"
    return DataError(complaint, kind="image that can't be prepared")


def image_name(name: str, *, allow_external_paths: bool, origin: str) -> str:
    """`name` when it may name an image below a root; with `allow_external_paths` it may lead out of it.

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
    """A text from a file as it can stand in a message: quoted, one line, not too long."""
    text = text if len(text) <= longest else text[:longest] + "…"
    return f"'{text}'" if text.isprintable() else repr(text)
