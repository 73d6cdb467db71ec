"""What is being written has a temporary name, by which the leftovers of killed processes are found and removed.

In a run folder the process that locks it removes them (`locks.alone`). Elsewhere a process may still be writing, so
`sweep` takes only what was last changed more than a day ago: in the cache once a day, and beside an export when one of
that name is made.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from evertune.utils.cache_files import DAY, trim

TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}")
SWEPT = ".swept"
"""A file in the cache: its time of change is when the cache was swept last."""


NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems say that can't force a folder to the disk."""


def temporary_name(path: Path) -> Path:
    """A name beside `path` for what is not whole yet: `.matrix.json.4711-1f2e3d4c`."""
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"


def synced(path: Path) -> None:
    """Force a file to the disk, or the names in a folder: a rename is only then safe from a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in NO_SYNC:
            raise
    finally:
        os.close(handle)


def take_name(temporary: Path, path: Path, *, proof: str | None = None) -> None:
    """Give a filled folder its name, once its files are on the disk; another one that is there already stays."""
    for place in (temporary, *temporary.rglob("*")):
        synced(place)
    if proof and path.exists() and not (path / proof).exists():
        shutil.rmtree(path)
    if not path.exists():
        temporary.rename(path)
        synced(path.parent)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders below `folder`, of killed processes if none is writing there now."""
    found = []
    for place, folders, files in os.walk(folder):
        found += [Path(place, name) for name in (*folders, *files) if TEMPORARY.fullmatch(name)]
        folders[:] = [name for name in folders if not TEMPORARY.fullmatch(name)]
    return sorted(found)


def sweep(folder: Path, *, unchanged_for: float = 0.0) -> list[Path]:
    """Remove the leftovers below `folder` in which nothing has changed for so many seconds; return their paths."""
    return _removed(leftovers(folder), unchanged_for)


def sweep_cache(cache: Path) -> None:
    """Remove the leftovers in the cache that are older than a day, and what is beyond its limit; looks at most once a
    day."""
    with suppress(OSError):  # a cache that can't be written to is not swept
        note = cache / SWEPT
        if note.exists() and time.time() - note.stat().st_mtime < DAY:
            return
        note.touch()
        sweep(cache, unchanged_for=DAY)
        trim(cache)


def sweep_beside(path: Path) -> None:
    """Remove what earlier attempts to make `path` have left beside it, if it is older than a day."""
    with suppress(OSError):
        beside = [each for each in path.parent.iterdir() if TEMPORARY.fullmatch(each.name)]
        _removed([each for each in beside if each.name.rpartition(".")[0] == f".{path.name}"], DAY)


def _removed(paths: list[Path], unchanged_for: float) -> list[Path]:
    removed = []
    for path in paths:
        if unchanged_for and time.time() - _last_change(path) < unchanged_for:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(path)
    return removed


def _last_change(path: Path) -> float:
    """The latest time of change of `path` and of everything in it; now, where another process is at work in it."""
    try:
        below = [Path(place, name) for place, folders, files in os.walk(path) for name in (*folders, *files)]
        return max(each.lstat().st_mtime for each in (path, *below))
    except OSError:
        return time.time()
