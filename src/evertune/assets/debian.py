"""Debian's archive: packages are `ar` files that hold a tarball of what is installed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from evertune.assets.registry import ArchiveMember, Package, Registry
from evertune.assets.tarballs import tar_members
from evertune.utils.errors import UserError

MIRRORS = ("https://deb.debian.org/debian", "https://snapshot.debian.org/archive/debian/20230701T000000Z")
"""The archive as it is, and as it was when Debian 12 came out: releases leave the first one day."""
MAGIC = b"!<arch>\n"
HEADER = 60


class Debian(Registry):
    """Packages by `apt-get download` where apt knows that release, else from the archive's own address."""

    title = "Debian's archive"
    ending = ".deb"
    advice = "check the network and its proxy settings"
    writes_where_it_runs = True

    def release_of(self, name: str, version: str) -> str:
        """As apt takes it."""
        return f"{name}={version}"

    def command(self, package: Package, place: Path) -> list[str]:
        """Needs no rights and installs nothing."""
        del place  # it writes where it runs
        return ["apt-get", "download", "--quiet", package.release]

    def addresses(self, package: Package) -> list[str]:
        """`path` in every mirror."""
        return [f"{mirror}/{package.path}" for mirror in MIRRORS]

    @contextmanager
    def members(self, archive: Path) -> Iterator[Iterator[ArchiveMember]]:
        """The files that the package would install, without the leading slash."""
        with archive.open("rb") as file:
            size = _find_data(file, name=archive.name)
            part = io.BufferedReader(_Part(file, size))
            with tar_members(part, name=f"data.tar of {archive.name}") as found:
                yield found


def _find_data(file: IO[bytes], *, name: str) -> int:
    """Stand at the first byte of the member `data.tar...` and return its size.

    An `ar` file is a magic word, then per member a header (name 16, time 12, owner 6, group 6, mode 8, size 10
    characters, two of magic) and its bytes, filled up to an even number.
    """
    if file.read(len(MAGIC)) == MAGIC:
        while len(header := file.read(HEADER)) == HEADER and header[48:58].strip().isdigit():
            size = int(header[48:58])
            if header.startswith(b"data.tar"):
                return size
            file.seek(size + size % 2, io.SEEK_CUR)
    raise UserError(f"{name} is not a Debian package: no data.tar in it")


class _Part(io.RawIOBase):
    """The next `size` bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left = file, size

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` as far as there is something left."""
        piece = self.file.read(min(len(buffer), self.left))
        buffer[: len(piece)] = piece
        self.left -= len(piece)
        return len(piece)
