"""Uploaded files: their folder is the only one that is read for a caller or sent to a browser.

Every file that a caller names is looked up here. Gradio's own checks run after ours: it skips some of them when it
thinks that a page has not been launched, and trusts names for what a file is.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from evertune.apps.auth import LARGEST_BODY
from evertune.data.images import format_of
from evertune.utils.errors import DataError
from evertune.utils.files import digest, make_folder, opened, write_atomically
from evertune.utils.regular_files import read_regular

TYPES = {
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
}
"""Raster formats that browsers show."""
META = {"_type": "gradio.FileData"}
PLAIN = (str, int, float, bool, type(None))


def _gone() -> DataError:
    """One message for every unavailable file, so that it reveals nothing about files elsewhere."""
    return DataError("the image is no longer there: choose it again", kind="missing image")


class Uploads:
    """The folder of the files that were uploaded to one page.

    Args:
        folder: it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def path_of(self, sent: Any) -> Path | None:
        """The file that a caller sent for an image; None for none. Touches no file.

        Raises:
            DataError: it is no file that was uploaded here.
        """
        if sent is None:
            return None
        if not isinstance(sent, dict) or sent.get("meta") != META or sent.get("is_stream"):
            raise _gone()
        if not all(isinstance(value, PLAIN) for key, value in sent.items() if key != "meta"):
            raise _gone()
        return self.below(sent.get("path"))

    def below(self, path: Any) -> Path:
        """`path` where it names a file below the folder. Touches no file.

        Raises:
            DataError: it does not.
        """
        if not isinstance(path, str) or "\0" in path:
            raise _gone()
        found = Path(os.path.normpath(path))
        if not found.is_relative_to(self.folder) or found == self.folder:
            raise _gone()
        return found

    def read(self, path: Path) -> bytes:
        """The content of an uploaded file.

        Raises:
            DataError: it is gone, no regular file, or too large.
        """
        return read_bounded(self.below(str(path)))

    def keep(self, image: Path) -> Path:
        """A copy of an image for the page, under a name that its content gives it.

        Raises:
            DataError: it is gone, no regular file, too large, or no image.
        """
        content = read_bounded(image)
        suffix = format_of(content, where="the image").lower()
        copy = self.folder / digest(content) / f"image.{suffix}"
        make_folder(copy.parent)
        write_atomically(copy, content)  # again, if it is there: old files are deleted
        return copy

    def take(self, content: IO[bytes]) -> Path:
        """Store an upload in a folder of its own; returns the path of the file."""
        path = make_folder(self.folder / secrets.token_hex(16)) / "dropped"
        with os.fdopen(opened(path, os.O_WRONLY), "wb") as stream:
            shutil.copyfileobj(content, stream, 64 << 10)
        return path

    def delete_old(self, age: float) -> None:
        """Delete all files that have not changed for `age` seconds, and the folders that are empty then."""
        oldest = time.time() - age
        for place, _, names in os.walk(self.folder, topdown=False):
            with suppress(OSError):  # another event deleted it, or writes into it
                for path in (Path(place, name) for name in names):
                    if path.lstat().st_mtime < oldest:
                        path.unlink()
                if Path(place) != self.folder and Path(place).stat().st_mtime < oldest:
                    Path(place).rmdir()

    def given(self, path: str) -> tuple[bytes, str | None]:
        """The content of an uploaded file, and its media type by content; None if browsers must not show it.

        Raises:
            DataError: it is gone, no regular file, or too large.
        """
        content = self.read(self.below(path))
        try:
            return content, TYPES.get(format_of(content, where="the image"))
        except DataError:
            return content, None


def read_bounded(path: Path) -> bytes:
    """The content of a regular file of at most `LARGEST_BODY` bytes that no link stands for.

    Raises:
        DataError: it is something else, or too large.
    """
    try:
        return read_regular(path, most=LARGEST_BODY, links=False)
    except (OSError, ValueError) as problem:
        if not isinstance(problem, OSError) or problem.errno != errno.EFBIG:
            raise _gone() from problem
        raise DataError(f"the image is too large: {problem.strerror}", kind="image too large") from problem


def refuse_foreign(uploads: Uploads, kinds: Sequence[bool], values: Sequence[Any]) -> None:
    """Stop an event whose values are not what the page sends: texts, numbers, and for images what was dropped.

    Args:
        uploads: of the page.
        kinds: for each input, whether it is an image.
        values: what was sent for them.

    Raises:
        DataError: one is something else.
    """
    for is_image, value in zip(kinds, values, strict=False):
        if is_image:
            uploads.path_of(value)
        elif not isinstance(value, PLAIN):
            raise DataError("a value is something else than a text or a number")
