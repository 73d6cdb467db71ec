"""Decodes images, in this process or, if the header does not bound the cost, in a worker process.

`evertune.data.images` calls `decoded` for ordinary JPEG, PNG and WebP, and starts this file as a worker for everything
else: a TIFF tile, a GIF comment or an AVIF frame can take any amount of memory or time, whatever the header says.
Imports nothing of evertune. The limits are the system's: memory by the size of file and image, and CPU time.
"""

from __future__ import annotations

import fcntl
import io
import json
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

MOST_PIXELS = 89_478_485
"""Pillow's own limit for a warning: a quarter of a gigabyte as RGB."""
BAND = 256
"""Rows that are converted at once, so that a large image is not in memory several times."""
# Raster formats only: Pillow would hand PostScript to an interpreter. No icons: Pillow decodes them to know their size.
KINDS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
SPARE, PER_BYTE, PER_PIXEL = 64 << 20, 2, 28
"""Bytes that a worker may take: in all, per byte of the file and per pixel. JPEG 2000 takes most: 25 per pixel."""
HEADER_SECONDS, SECONDS, SECONDS_PER_BYTE, SECONDS_PER_PIXEL = 1.0, 4.0, 1e-6, 5e-7
"""Of CPU time; five times what the slowest decoders take (JPEG 2000, PPM in text, run lengths in BMP)."""
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the orientation in EXIF."""
TOO_MUCH = "takes far more memory than an image of its size"
_headers = threading.Lock()  # `warnings.catch_warnings` is not safe among threads


class ImageError(ValueError):
    """An unusable image; the message follows the image's name. `kind` as in `DataError`."""

    def __init__(self, message: str, kind: str = "broken image") -> None:
        super().__init__(message)
        self.kind = kind


def described(content: bytes) -> dict[str, Any]:
    """`format`, `width` and `height` as stored, from the header."""
    with _header(content) as image:
        return {"format": image.format or "", "width": image.width, "height": image.height}


def measured(content: bytes) -> dict[str, Any]:
    """`width` and `height` as `rgb` gives it."""
    with _header(content) as image:
        _accept(*image.size)  # Pillow decodes a PNG to find its orientation
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        width, height = (image.height, image.width) if turned else image.size
        return {"width": width, "height": height}


def rgb(content: bytes) -> Image.Image:
    """The image as RGB."""
    return _as_rgb(_upright(content))


def thumbnail(content: bytes, side: int) -> Image.Image:
    """The image as RGBA and at most `side` pixels wide and high."""
    image = _upright(content, draft=2 * side)
    deep = image.mode.startswith("I") or image.mode == "F"
    shown = (_from_deep(image) if deep else image).convert("RGBA")
    shown.thumbnail((side, side))
    return shown


DECODE: dict[str, Any] = {one.__name__: one for one in (described, measured, rgb, thumbnail)}


def decoded(action: str, content: bytes, **options: Any) -> Any:
    """Run an action on a file's content.

    Raises:
        ImageError: for every failure.
    """
    try:
        return DECODE[action](content, **options)
    except ImageError:
        raise
    except Image.DecompressionBombError as problem:
        complaint = f"has far more than {MOST_PIXELS:,} pixels, the most that are decoded: make it smaller"
        raise ImageError(complaint, "image too large") from problem
    except UnidentifiedImageError as problem:
        raise ImageError("is broken or not an image (no known format)") from problem
    except MemoryError as problem:
        raise ImageError(TOO_MUCH, "image too large") from problem
    except Exception as problem:  # what decoders raise on damaged files is not a closed list
        raise ImageError(f"is broken or not an image ({problem})") from problem


def _upright(content: bytes, *, draft: int = 0) -> Image.Image:
    """The decoded image in its own mode; with `draft`, a large JPEG is decoded at a smaller size of at least this
    width."""
    with _header(content) as image:
        _accept(*image.size)
        if draft:
            image.draft("RGB", (draft, draft))
        image.load()
        # Not `ImageOps.exif_transpose`, which copies upright images and rewrites all EXIF data.
        turn = TURNED.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return image.transpose(turn) if turn is not None else image


def _accept(width: int, height: int) -> None:
    """Refuse an image with too many pixels; a worker then raises its limits to those of this size."""
    if width * height > MOST_PIXELS:
        complaint = f"has {width} x {height} pixels; at most {MOST_PIXELS:,} are decoded: make it smaller"
        raise ImageError(complaint, "image too large")
    _on_size(width * height)


def _no_limit(_pixels: int) -> None:
    pass


_on_size: Callable[[int], None] = _no_limit


def _header(content: bytes) -> Image.Image:
    """The image before its pixels are decoded."""
    with _headers, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its size, which is checked next
        Image.init()
        return Image.open(io.BytesIO(content), formats=[kind for kind in KINDS if kind in Image.OPEN])


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    made = Image.new("RGB", image.size)
    for top in range(0, image.height, BAND):  # at once it would be three more copies
        layer = image.crop((0, top, image.width, min(top + BAND, image.height))).convert("RGBA")
        made.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), (0, top))
    return made


def _from_deep(image: Image.Image) -> Image.Image:
    """8-bit grey of 16-bit grey: 65535 is white. Pillow's own conversion would cut off everything above 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(f"has values of 32 bits (mode {image.mode}), whose white level is unknown: save it with 8")
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), BAND):
        grey[top : top + BAND] = np.round(values[top : top + BAND].astype(np.float32) / 257)
    return Image.fromarray(grey)


def _limit(memory: int, seconds: float) -> None:
    """Set how much more memory and CPU time this process may use."""
    status = Path("/proc/self/statm")
    if status.exists():  # Linux; elsewhere the limit of time stands alone
        wanted = int(status.read_text().split()[5]) * resource.getpagesize() + memory
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _canvas(content: bytes) -> int:
    """Pixels of a WebP, whose decoder allocates them before it reports the size; 0 for other formats.

    Raises:
        ImageError: they are too many.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return 0
    if content[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif content[12:16] == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    _accept(width, height)
    return width * height


def _reply(request: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    global _on_size  # noqa: PLW0603  this process answers one request at a time
    spare = SPARE + PER_BYTE * len(content)

    def allow(pixels: int) -> None:
        seconds = SECONDS + SECONDS_PER_BYTE * len(content) + SECONDS_PER_PIXEL * pixels
        _limit(spare + PER_PIXEL * pixels, seconds)

    try:
        _on_size = _no_limit
        _limit(spare + PER_PIXEL * _canvas(content), HEADER_SECONDS)
        _on_size = allow
        found = decoded(request["action"], content, **request["options"])
        if isinstance(found, dict):
            return found, b""
        return {"mode": found.mode, "width": found.width, "height": found.height}, found.tobytes()
    except ImageError as problem:
        return {"error": str(problem)[:2000], "kind": problem.kind}, b""
    except MemoryError:
        return {"error": TOO_MUCH, "kind": "image too large"}, b""


def main() -> None:
    """Answer requests until the input ends or a limit ends this process."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # its parent decides; this process ends with its input
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF,))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for pipe in (sys.stdin, sys.stdout):
        with suppress(OSError, AttributeError):  # Linux: fewer changes between the processes
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
    Image.init()
    if avif := sys.modules.get("PIL.AvifImagePlugin"):  # each of its threads would take 8 MiB for its stack
        vars(avif)["DEFAULT_MAX_THREADS"] = 1
    for line in sys.stdin.buffer:
        request = json.loads(line)
        head, pixels = _reply(request, sys.stdin.buffer.read(request["bytes"]))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps({**head, "bytes": len(pixels)}).encode() + b"\n")
        sys.stdout.buffer.write(pixels)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
