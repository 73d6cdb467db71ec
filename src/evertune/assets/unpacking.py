"""Unpacking: the wanted regular files of an archive, below one folder, of bounded size.

The archive's checksum was compared before, but a package is still foreign: what leads out of the folder, links
and devices are not unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.assets.registry import CHUNK, ArchiveMember, Package
from evertune.utils.errors import UserError
from evertune.utils.safe_names import leads_out

MOST_BYTES = 1 << 30
"""That a package may fill on the disk; the largest of ours takes a tenth."""
MOST_FILES = 100_000


def unpack(package: Package, archive: Path, folder: Path) -> None:
    """Write the files of `archive` that `package` uses into `folder`.

    Raises:
        UserError: the archive is damaged, or holds more than `MOST_BYTES` of such files. The package is then not there.
    """
    folder = folder.resolve()
    left = MOST_BYTES
    written: set[Path] = set()
    with package.registry.members(archive) as members:
        for member in members:
            if not package.uses(member.name) or leads_out(member.name) or "\0" in member.name:
                continue
            target = (folder / member.name).resolve()
            if not target.is_relative_to(folder) or target == folder:
                continue
            left -= member.size
            if left < 0 or len(written) == MOST_FILES:
                raise UserError(
                    f"{package.release} holds more than {MOST_BYTES >> 20} MiB, or {MOST_FILES:,} files; "
                    "nothing of it is used"
                )
            if target in written:
                raise UserError(f"{package.release} holds the file {member.name:.200} twice; nothing of it is used")
            written.add(target)
            _write(member, target)  # whole or not at all: `done` is written last


def _write(member: ArchiveMember, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for piece in _pieces(member):
                file.write(piece)
    except OSError as problem:
        raise UserError(
            f"cannot write {str(target)[:300]}: {problem.strerror}; free space or choose another"
        ) from problem


def _pieces(member: ArchiveMember) -> Iterator[bytes]:
    """At most what the archive's own index announced; whatever a decoder raises is one line."""
    left = member.size
    try:
        with member.open() as content:
            while left > 0 and (piece := content.read(min(CHUNK, left))):
                left -= len(piece)
                yield piece
    except Exception as problem:  # zlib, lzma, zipfile, tarfile and struct have an error each, and OSError
        raise UserError(
            f"{member.name:.200} in the downloaded archive can't be read ({problem}); run the same command again"
        ) from problem
    if left:
        raise UserError(f"{member.name} in the downloaded archive is shorter than it says; run the same command again")
