"""Files that a user or an untrusted file names: opened only if they are regular ones of bounded size.

A pipe would keep the process waiting, `/dev/zero` never ends, and a sparse file of 20 GB takes no room on the disk.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path

MOST_TEXT = 1 << 30
"""Bytes of a file that is read as a whole; the answers to a million questions take a third."""
MOST_OF_NOTHING, MOST_PER_BYTE = 1 << 30, 100
"""Bytes that may be made of small files, and of each byte more. Sound Parquet unpacks to 3 to 20 times its size."""


def open_regular(path: Path, *, most: int | None = None, links: bool = True) -> io.BufferedReader:
    """Open a file that a user or another file names, for reading; never waits, as it would for a pipe.

    Raises:
        OSError: it can't be opened, is no regular file (a folder, pipe or device; without `links` also a symbolic
            link), or has more than `most` bytes.
    """
    flags = ("O_CLOEXEC", "O_NONBLOCK") if links else ("O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW")
    handle = os.open(path, sum((getattr(os, name, 0) for name in flags), os.O_RDONLY))
    try:
        status = os.fstat(handle)  # of what was opened, whatever has happened to the name since
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if most is not None and status.st_size > most:
            raise _too_large(path, status.st_size, most)
    except OSError:
        os.close(handle)
        raise
    return open(handle, "rb")  # noqa: PTH123  of a handle


def read_regular(path: Path, *, most: int = MOST_TEXT, links: bool = True) -> bytes:
    """The content of a file that a user or another file names.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path, most=most, links=links) as stream:
        content = stream.read(most + 1)
    if len(content) > most:  # it has grown, or says nothing of its size, as files of /proc do
        raise _too_large(path, len(content), most)
    return content


def _too_large(path: Path, size: int, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {size >> 20:,} MiB; at most {most >> 20:,} are read", str(path))


def most_from(files: Iterable[Path]) -> int:
    """How many bytes may be made of these files: what unpacks to more is no data set, but an attack or a mistake."""
    return MOST_OF_NOTHING + MOST_PER_BYTE * sum(path.stat().st_size for path in files)
