"""Image marks (`<image>`) in a text: removed, and compared with the number of images of the row.

The model's family decides the position of an image. A row with a mark but no image would train without its image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from evertune.data.images import short
from evertune.utils.errors import DataError

IMAGE_MARK, VIDEO_MARK = "<image>", "<video>"
_leading = re.compile(r"\A\s*(<image>|<video>)|^[ \t]*(<image>|<video>)[ \t]*$", re.MULTILINE)
_ending = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|ppm|avif|jp2|mp4|avi|mov|mkv|webm)\Z", re.IGNORECASE)
KEYS = {"image_path", "image_paths", "images_path", "image_file", "image_name", "image_url", "img", "imgs", "img_path"}
KEYS |= {"images", "picture", "pictures", "photo", "photos"}
"""Keys for an image in published files that no reader takes for `image`."""
FILMS = {"video", "videos", "video_path", "audio", "audios"}


def unmarked(text: str) -> str:
    """`text` without its marks."""
    return text.replace(IMAGE_MARK, "").strip()


def refuse_miscounted(text: str, images: int, *, origin: str) -> None:
    """Raise a `DataError` if `text` has marks, but not as many as the row has images."""
    if VIDEO_MARK in text:
        raise DataError(f"{origin}: the text says {VIDEO_MARK}: videos are not read, images are", kind="video")
    marks = text.count(IMAGE_MARK)
    if marks and marks != images:
        often = "once" if marks == 1 else f"{marks} times"
        has = f"{images or 'no'} image{'s' * (images > 1)}"
        complaint = f"{origin}: {IMAGE_MARK} stands {often} in the text, and the row has {has}"
        raise DataError(complaint, kind="marks and images differ")


def leads(text: str) -> bool:
    """Whether marks in `text` stand for images: one leads it, or is alone on its line. Else they are its words."""
    return bool(_leading.search(text))


def refuse_elsewhere(row: Mapping[str, object], *, origin: str) -> None:
    """Raise a `DataError` for a row without `image` that names an image, or a video, under another key."""
    for key, value in row.items():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict) and key in KEYS:
            first = str(first)
        if not isinstance(first, str) or not first.strip():
            continue
        if key in FILMS:
            raise DataError(f"{origin}: '{key}' ({short(first)}) is not read; images are", kind="video")
        if key in KEYS or (len(first) < 1024 and "\n" not in first and _ending.search(first)):
            complaint = f"{origin}: '{short(key)[1:-1]}' holds {short(first)}, but images are read from 'image' only"
            raise DataError(f"{complaint}: give the key this name", kind="image under another key")
