"""One process at a time: locks on files, which say who holds them and go when their holder dies.

A run folder has one in it (`.lock`), a grid's job one beside it. They are `flock`s, which the system lets go of
when the last process that holds them ends, however it ends; so nothing is ever left behind to be cleaned up. A
grid hands the open file on to its worker, who then holds the lock even when the grid was killed: no package for locks
offers that. Where a file system (some network disks) has no `flock`, a marker file of `filelock` takes its place.
"""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import make_folder, opened, write_atomically
from evertune.utils.symlinks import refuse_links
from evertune.utils.temporary_files import sweep

NAME = ".lock"
"""The lock inside a run folder."""
NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class Lock:
    """A lock that is held until `close`, or until this process and those who inherited it have ended."""

    def __init__(self, path: Path, handle: int | None, marker: object = None) -> None:
        self.path = path
        self._handle, self._marker = handle, marker

    @property
    def inherited_by(self) -> list[int]:
        """What `pass_fds` of a child needs, so that it holds the lock too; nothing where a marker is the lock."""
        return [] if self._handle is None else [self._handle]

    def sign(self, process: int | None = None) -> None:
        """Write down who holds it: process, machine and since when. A child's number where one does the work.

        The lock holds without it: where the disk takes nothing, what is to be kept fails next, and says so.
        """
        since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        signature = f"{process or os.getpid()} {platform.node() or 'localhost'} {since}\n"
        with suppress(OSError, UserError):
            if self._handle is None:
                write_atomically(holder_file(self.path), signature)
                return
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, signature.encode(), 0)

    def close(self) -> None:
        """Let go; who inherited it still holds it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        elif self._marker is not None:
            self._marker.release()  # type: ignore[attr-defined]
            self._marker = None


def holder_file(path: Path) -> Path:
    """Where the holder of a marker is written: the marker itself belongs to `filelock`."""
    return path.with_name(f"{path.name}.holder")


def taken(path: Path) -> Lock | None:
    """The lock at `path`, or None while another process holds it.

    Raises:
        UserError: it can't be made: the folder is read-only, or not ours.
    """
    make_folder(path.parent)
    try:
        handle = opened(path)
    except OSError as problem:
        raise UserError(f"cannot write {path}: {problem.strerror}; choose another folder") from problem
    try:
        _flock(handle)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as problem:
        os.close(handle)
        if problem.errno in NO_FLOCK:
            return _marked(path)
        raise UserError(f"cannot lock {path}: {problem.strerror}") from problem
    return Lock(path, handle)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path`; for this, it is taken for a moment."""
    try:
        lock = taken(path)
    except UserError:
        return False  # a folder that is only read is not locked here
    if lock:
        lock.close()
    return lock is None


def _flock(handle: int) -> None:
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _marked(path: Path) -> Lock | None:
    """A marker file in place of `flock`; one whose process is gone, on this machine, is reused."""
    from filelock import SoftFileLock, Timeout

    marker = SoftFileLock(path.with_name(f"{path.name}.marker"))
    try:
        marker.acquire(timeout=0)
    except Timeout:
        return None
    return Lock(path, None, marker)


def holder(path: Path) -> str:
    """Who holds the lock, in words: `process 4711 on node3, since 2026-05-01T10:00:00+0200`."""
    for place in (holder_file(path), path):
        words = place.read_text(encoding="utf-8", errors="replace").split() if place.exists() else []
        if len(words) == 3:
            return f"process {words[0]} on {words[1]}, since {words[2]}"
    return "another process"


def _taken_again(path: Path) -> Lock | None:
    """After a moment: a server looks whether the lock is held by taking it (`is_held`)."""
    time.sleep(0.05)
    return taken(path)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process writes in a run folder while this is entered.

    Raises:
        RunFolderError: another process does; the message says which, and since when. Or there are links in it.
    """
    refuse_links(folder)
    lock = taken(folder / NAME) or _taken_again(folder / NAME)
    if lock is None:
        raise RunFolderError(
            f"{folder} is in use by {holder(folder / NAME)}; wait until it has ended, or end it. "
            "What it has finished stays"
        )
    try:
        lock.sign()
        sweep(folder)  # no other process writes here: what is half written was left by a killed one
        yield
    finally:
        lock.close()
