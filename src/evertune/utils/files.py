"""Files that are either whole or absent: atomic writes, checksums, the user's cache folder.

Every file that evertune writes goes through `write_atomically` or its like: a temporary name in the same folder, fsync,
rename, fsync of the folder. A crash, a loss of power or a full disk leaves what was there before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.parsing import json_value, refuse_many
from evertune.utils.regular_files import open_regular, read_regular
from evertune.utils.temporary_files import sweep_beside, sweep_cache, synced, take_name, temporary_name

RUST_ERROR = re.compile(r"\(os error (\d+)\)")
"""How the errors of safetensors and tokenizers end where the system has refused something."""
PIECE = 1 << 16
SPARE_FILES = 8
"""More than are open at once while an entry of the cache is read."""


def cache_folder() -> Path:
    """The folder for what can be made again.

    `$EVERTUNE_CACHE`, else `$XDG_CACHE_HOME/evertune`, else `~/.cache/evertune`.
    """
    if chosen := os.environ.get("EVERTUNE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "evertune"


def refuse_file(path: Path) -> Path:
    """`path`, where a folder is or can be made: neither it nor what it is in is a file.

    Raises:
        UserError: one of them is; called before anything expensive is done.
    """
    there = next((place for place in (path, *path.parents) if place.exists()), path)
    if there.exists() and not there.is_dir():
        raise UserError(f"{path} can't be a folder: {there} is a file; choose another place")
    return path


def make_folder(path: Path) -> Path:
    """Create `path` with its parents, or say in one line why that is not possible."""
    if path.is_dir():
        return path
    try:
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in new:
            synced(folder.parent)
    except OSError as problem:
        raise UserError(f"cannot create the folder {path}: {problem.strerror}; choose another place") from problem
    return path


def opened(path: Path, flags: int = os.O_RDWR) -> int:
    """A handle on a file that is written in place (a log, a lock), made where there is none; never through a link.

    Raises:
        OSError: it can't be opened, or is a link, a pipe or a device, or has another name (a hard link).
    """
    for name in ("O_CREAT", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link")
    if path.is_fifo():
        raise OSError(errno.EINVAL, "it is no regular file")  # to open it would fail with other words
    handle = os.open(path, flags, 0o666)
    status = os.fstat(handle)  # of what was opened, whatever has happened to the name since
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return handle
    os.close(handle)
    raise OSError(errno.EMLINK, "it has another name (a hard link): put a copy of it in its place")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` so that a reader sees the old file or the whole new one, never a part.

    Raises:
        UserError: the disk is full or the folder is read-only; an existing file is unchanged.
    """
    make_folder(path.parent)
    temporary = temporary_name(path)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _write_all(handle, content.encode() if isinstance(content, str) else content)
            os.fsync(handle)
        finally:
            os.close(handle)
        _into_place(temporary, path)
    except OSError as problem:
        raise UserError(
            f"cannot write {path}: {problem.strerror}; free space or choose another folder. "
            "What was finished before is still valid"
        ) from problem
    finally:
        _forget(temporary)


def _write_all(handle: int, data: bytes) -> None:
    """`os.write` may take a part only; the rest is offered again, and what refuses it says why."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _into_place(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)  # noqa: PTH105  by the name that tests make fail
    synced(path.parent)


def _forget(temporary: Path) -> None:
    """Remove what did not get its name; where even that fails, `sweep` finds it later."""
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` with a temporary name; it is gone when the block ends, and swept after a kill."""
    make_folder(path.parent)
    if path.is_relative_to(cache_folder()):
        sweep_cache(cache_folder())
    else:
        sweep_beside(path)
    temporary = temporary_name(path)
    try:
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_folder(path: Path, *, proof: str | None = None) -> Iterator[Path]:
    """A new folder to fill; it takes the name `path` when the block ends well, and is gone when it does not.

    Another process may make the same folder meanwhile: the first one stays, both are the same. With `proof`, a folder
    without the file of that name is not whole, and is replaced.

    Raises:
        UserError: the disk is full or the place is read-only.
    """
    try:
        with scratch_folder(path) as temporary:
            yield temporary
            take_name(temporary, path, proof=proof)
    except Exception as problem:
        refused = _refused(problem)
        if refused is None:
            raise
        if not path.exists():  # it does when another process was faster
            raise UserError(f"cannot write {path}: {refused}; free space or choose another folder") from problem


def _refused(problem: Exception) -> str | None:
    """Why the system has refused to read or write, as libraries of every language report it; None for other errors."""
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    found = RUST_ERROR.search(str(problem))
    return os.strerror(int(found[1])) if found and not isinstance(problem, UserError) else None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new file to write; it takes the name `path` when the block ends well, and is gone when it does not.

    Raises:
        UserError: the disk is full or the folder is read-only; an existing file is unchanged.
    """
    make_folder(path.parent)
    sweep_beside(path)
    temporary = temporary_name(path)
    try:
        yield temporary
        synced(temporary)
        _into_place(temporary, path)
    except OSError as problem:
        raise UserError(f"cannot write {path}: {problem.strerror}; free space or choose another folder") from problem
    finally:
        _forget(temporary)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically; NaN is refused rather than written."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path, *, errors: str = "strict") -> str:
    """The text of a run folder's file.

    Raises:
        RunFolderError: it is missing, no regular file, larger than `regular_files.MOST_TEXT`, not UTF-8, or has more
            values than `parsing.refuse_many` allows, in all its lines together.
    """
    try:
        text = read_regular(path).decode("utf-8", errors=errors).replace("\r\n", "\n").replace("\r", "\n")
        refuse_many(text)
        return text
    except FileNotFoundError as problem:
        raise RunFolderError(f"{path} is missing") from problem
    except UnicodeDecodeError as problem:
        raise RunFolderError(f"{path} is not UTF-8 text: the file is damaged or truncated") from problem
    except OSError as problem:
        raise RunFolderError(f"{path} can't be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise RunFolderError(f"{path} can't be read: {problem}") from problem


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunFolderError: the file is missing, or broken (the message names the line).
    """
    try:
        return json_value(read_text(path))
    except json.JSONDecodeError as problem:
        message = f"{path} line {problem.lineno} is not valid JSON: the file is damaged or truncated"
        raise RunFolderError(message) from problem
    except RunFolderError:
        raise
    except ValueError as problem:
        raise RunFolderError(f"{path} is not valid JSON ({problem}): the file is damaged") from problem


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        RunFolderError: as `read_json`, or it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged: expected an object")
    return content


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one line to an append-only log (the ledger) and force it to the disk.

    A last line that was cut short, by a loss of power or a full disk, is taken away first.

    Raises:
        UserError: the disk is full or the folder is read-only; the earlier lines are unchanged.
    """
    try:
        is_new = not path.exists()
        handle = opened(path)
        try:
            end = _end_of_lines(handle)
            os.ftruncate(handle, end)
            os.lseek(handle, end, os.SEEK_SET)
            _append(handle, (json.dumps(row, ensure_ascii=False) + "\n").encode(), end=end)
        finally:
            os.close(handle)
        if is_new:
            synced(path.parent)
    except OSError as problem:
        raise UserError(
            f"cannot write {path}: {problem.strerror}; free space and run the same command again"
        ) from problem


def _append(handle: int, line: bytes, *, end: int) -> None:
    """All of the line, or nothing."""
    try:
        _write_all(handle, line)
        os.fsync(handle)
    except OSError:
        with suppress(OSError):
            os.ftruncate(handle, end)
        raise


def _end_of_lines(handle: int) -> int:
    """Where the last whole line ends."""
    size = os.fstat(handle).st_size
    for start in range(size - size % PIECE, -1, -PIECE):
        piece = os.pread(handle, min(PIECE, size - start), start)
        if (at := piece.rfind(b"\n")) >= 0:
            return start + at + 1
    return 0


def digest(*parts: bytes | str) -> str:
    """SHA-256 over `parts`, each preceded by its length so that no two lists of parts collide."""
    return digest_over(parts)


def digest_over(parts: Iterable[bytes | str]) -> str:
    """`digest` of parts that come one after another."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of its keys."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str))


def sum_of(*parts: bytes | memoryview) -> int:
    """CRC-32 over `parts`: finds what a disk or a memory has changed, not deliberate changes; 3.6 GB/s here."""
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total


def sum_of_file(path: Path, *, start: int = 0, before: bytes = b"") -> int:
    """`sum_of` of `before` and a file from `start` on; read, not mapped, so that its pages don't count as memory."""
    total = zlib.crc32(before)
    with open_regular(path) as stream:
        stream.seek(start)
        while piece := stream.read(1 << 20):
            total = zlib.crc32(piece, total)
    return total


def note_damage(path: Path) -> None:
    """Say that an entry of the cache is not what was written, and is made again; it is gone afterwards.

    Raises:
        OSError: no more files can be opened: that may be why it looked damaged, and it stays.
    """
    for handle in [os.open(os.devnull, os.O_RDONLY) for _ in range(SPARE_FILES)]:
        os.close(handle)
    logging.getLogger("evertune").warning(
        f"{path} in the cache is damaged: its checksum is not the one written down. It is made again; "
        "see to the disk if this happens more than once"
    )
    with suppress(OSError):  # a cache that can't be written to
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@lru_cache(maxsize=200_000)
def _digest_of_file(path: str, _size: int, _modified: int, _changed: int, _number: int) -> str:
    with open_regular(Path(path)) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content, remembered for as long as it is the same file of the same size and times."""
    status = path.stat()
    return _digest_of_file(str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def has_digest(path: Path, sha256: object, *, most: int) -> bool:
    """Whether a file is there, has at most `most` bytes, and this SHA-256; a larger one is not read."""
    return path.is_file() and path.stat().st_size <= most and digest_of_file(path) == sha256


def linked_or_copied(source: str, target: str) -> str:
    """A second name for a file that is never written in place, or a copy where the disk gives none.

    For `shutil.copytree`, so that gigabytes of weights are not on the disk twice.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
