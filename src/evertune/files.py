"""Files that are either whole or absent: atomic writes, checksums, the user's cache folder.

Every file that evertune writes goes through `write_atomically`: a temporary name in the same folder, flush, fsync,
rename. A crash or a full disk leaves what was there before.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from evertune.errors import RunFolderError, UserError


def cache_folder() -> Path:
    """The folder for what can be made again.

    `$EVERTUNE_CACHE`, else `$XDG_CACHE_HOME/evertune`, else `~/.cache/evertune`.
    """
    if chosen := os.environ.get("EVERTUNE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "evertune"


def make_folder(path: Path) -> Path:
    """Create `path` with its parents, or say in one line why that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"cannot create the folder {path}: {problem.strerror}; choose another place") from problem
    return path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` so that a reader sees the old file or the whole new one, never a part.

    Raises:
        UserError: the disk is full or the folder is read-only; what was there before is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {problem.strerror}; free space or choose another folder. "
            "What was finished before is still valid"
        ) from problem


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the name `path` when the block ends well, and is gone when it does not.

    Another process may make the same folder meanwhile: the first one stays, both are the same.

    Raises:
        UserError: the disk is full or the place is read-only.
    """
    temporary = make_folder(path.parent) / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir()
        yield temporary
        for file in (path for path in temporary.rglob("*") if path.is_file()):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        if not path.exists():
            temporary.rename(path)
    except OSError as problem:
        if not path.exists():  # it does when another process was faster
            raise UserError(
                f"cannot write {path}: {problem.strerror}; free space or choose another folder for the cache"
            ) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new file to write; it takes the name `path` when the block ends well, and is gone when it does not.

    Raises:
        UserError: the disk is full or the folder is read-only; what was there before is untouched.
    """
    temporary = make_folder(path.parent) / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as problem:
        raise UserError(f"cannot write {path}: {problem.strerror}; free space or choose another folder") from problem
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically; NaN is refused rather than written."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunFolderError: the file is missing, or broken (the message names the line).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise RunFolderError(f"{path} is missing") from problem
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        where = f" line {problem.lineno}" if isinstance(problem, json.JSONDecodeError) else ""
        raise RunFolderError(f"{path}{where} is not valid JSON: the file is damaged or truncated") from problem


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one line to an append-only log (the ledger) and force it to the disk."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as problem:
        raise UserError(
            f"cannot write {path}: {problem.strerror}; free space and run the same command again"
        ) from problem


def digest(*parts: bytes | str) -> str:
    """SHA-256 over `parts`, each preceded by its length so that no two lists of parts collide."""
    return digest_over(parts)


def digest_over(parts: Iterable[bytes | str]) -> str:
    """`digest` of parts that come one after another."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of its keys."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str))


@lru_cache(maxsize=200_000)
def _digest_of_file(path: str, _size: int, _modified: int) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content, remembered for as long as its size and time of change stay the same."""
    status = path.stat()
    return _digest_of_file(str(path), status.st_size, status.st_mtime_ns)
