"""The open files of all indexes together: at most `MOST`, however many tasks a stream has.

`numpy.memmap` holds a file descriptor for as long as it lives, so the maps are opened where they are used, and the
least recently used are dropped. A dropped file is closed when its last reader lets go of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 64
"""Half of them memory maps, half of them files for partial reads."""


class RandomReader:
    """A file that is read at places; not a memory map, whose pages would count as memory of this process."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone at the end of the process
        if hasattr(self, "_handle"):
            close(self._handle)

    def read(self, place: NDArray[Any]) -> bytes:
        """The bytes at `place`, which is (offset, length)."""
        return os.pread(self._handle, int(place[1]), int(place[0]))


@lru_cache(maxsize=MOST // 2)
def mapped(path: Path, owner: int) -> NDArray[Any]:
    """The array in a NumPy file; `owner` distinguishes files that had the same name one after the other."""
    del owner
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r")
    except ValueError:  # an empty array can't be mapped
        values = np.load(path)
    return values


@lru_cache(maxsize=MOST // 2)
def reader(path: Path, owner: int) -> RandomReader:
    """A file of lines, for partial reads; `owner` as for `mapped`."""
    del owner
    return RandomReader(path)
