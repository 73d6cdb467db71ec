"""The regular files of a tar archive, for the registries whose packages are one."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO

from evertune.assets.registry import ArchiveMember
from evertune.utils.errors import UserError


@contextmanager
def tar_members(file: IO[bytes], *, name: str) -> Iterator[Iterator[ArchiveMember]]:
    """Read `file`, of any compression that Python knows, once from its first byte to its last; `name` is for messages.

    Raises:
        UserError: it is no tar archive, or damaged.
    """
    try:
        with _archive(file, name) as content:
            yield (
                ArchiveMember(entry.name.removeprefix("./"), entry.size, partial(_opened, content, entry))
                for entry in content
                if entry.isreg()
            )
    except UserError:
        raise
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, OverflowError) as problem:
        raise UserError(f"{name} is not a tar archive that Python {_version()} can read: {problem}") from problem


def _archive(file: IO[bytes], name: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r|*")
    except Exception as problem:  # a head that is cut off is a TypeError of tarfile's own
        raise UserError(f"{name} is not a tar archive that Python {_version()} can read: {problem}") from problem


def _opened(content: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    found = content.extractfile(entry)
    assert found is not None  # it is for links and folders only
    return found


def _version() -> str:
    import platform

    return platform.python_version()
