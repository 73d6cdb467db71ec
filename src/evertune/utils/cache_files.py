"""What is in the cache, by kind, with size and last use; and how the least recently used is removed.

The time of change of an entry is that of its last use (`note_use`). What can be computed again from what a run has at
hand is removed by itself, beyond a limit; what would have to be downloaded or read again only where it is named.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "features": ("*/*.safetensors", "vision features of images"),
    "trained": ("*.safetensors", "weights after a training, for identical ones"),
    "answers": ("*.json", "predictions of a set of weights"),
    "rows": ("*", "indexes of data files"),
    "images": ("*", "images from inside of tables"),
    "tasks": ("*", "built-in tasks"),
    "models": ("*", "downloaded models"),
    "packages": ("*", "downloaded data and weights"),
    "downloads": ("*", "incomplete downloads"),
}
"""Kind -> what its entries are called below its folder, and what they are."""
REMADE = ("features", "trained", "answers")
"""Kinds that a run makes again by itself when they are missing, also while it is running."""
LIMITS = {"trained": 20 * 10**9, "answers": 2 * 10**9}
"""Bytes of a kind that stay when the cache is swept; features have a budget of their own."""
MOST = 100 * 10**9
"""Bytes that `evertune cache --prune` leaves where nothing else is set."""
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of the cache: its bytes, and when it was used last (seconds since 1970)."""

    kind: str
    path: Path
    size: int
    used: float

    def remove(self) -> bool:
        """Remove it; returns whether it is gone."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        return not self.path.exists()


def note_use(path: Path) -> None:
    """Write down that an entry is used now; in a cache that can't be written to, nothing is."""
    with suppress(OSError):
        os.utime(path)


def entries(cache: Path, kinds: Iterable[str] = tuple(KINDS)) -> list[Entry]:
    """The entries of some kinds, the least recently used first."""
    found = (entry for kind in kinds for entry in _entries(cache, kind))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def _entries(cache: Path, kind: str) -> Iterator[Entry]:
    for path in (cache / kind).glob(KINDS[kind][0]):
        with suppress(OSError):  # another process removes it
            status = path.lstat()
            size = _size_below(path) if path.is_dir() and not path.is_symlink() else status.st_size
            yield Entry(kind, path, size, status.st_mtime)


def _size_below(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


def prune(found: Sequence[Entry], *, most: int | None, unused_for: float = 0.0) -> list[Entry]:
    """Remove entries that were not used for so many seconds, and then the least recently used until `most` bytes stay.

    Args:
        found: as `entries` returns them.
        most: bytes; None: any number.
        unused_for: seconds; 0: of any age.

    Returns:
        what is gone.
    """
    now, total, gone = time.time(), sum(entry.size for entry in found), []
    for entry in found:
        is_old = unused_for > 0 and now - entry.used > unused_for
        if (is_old or (most is not None and total > most)) and entry.remove():
            total -= entry.size
            gone.append(entry)
    return gone


def trim(cache: Path) -> None:
    """Keep the kinds in `LIMITS` below their limit, except for what was used within a day."""
    for kind, most in LIMITS.items():
        found = entries(cache, [kind])
        recent = sum(entry.size for entry in found if time.time() - entry.used <= DAY)
        prune([entry for entry in found if time.time() - entry.used > DAY], most=max(0, most - recent))
