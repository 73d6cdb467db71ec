"""Unpacking: the wanted regular files of an archive, below one folder, of bounded size.

The archive's checksum was compared before, but a package is still somebody else's: what leads out of the folder, links
and devices are not unpacked.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

from evertune.assets.registry import CHUNK, Member, Package
from evertune.errors import UserError
from evertune.files import make_folder

MOST_BYTES = 1 << 30
"""That a package may fill on the disk; the largest of ours takes a tenth."""


def unpack(package: Package, archive: Path) -> None:
    """Write the files of `archive` that `package` uses into its folder.

    Raises:
        UserError: the archive is damaged, or holds more than `MOST_BYTES` of such files. The package is then not there.
    """
    folder = make_folder(package.folder).resolve()
    left = MOST_BYTES
    with package.registry.members(archive) as members:
        for member in members:
            target = (folder / member.name).resolve()
            if package.uses(member.name) and target.is_relative_to(folder) and target != folder:
                left -= member.size
                if left < 0:
                    raise UserError(f"{package.release} holds more than {MOST_BYTES >> 20} MiB; nothing of it is used")
                _write(member, target)  # whole or not at all: `done` is written last


def _write(member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as content, target.open("wb") as file:
        _copy(content, file, member)


def _copy(content: IO[bytes], file: IO[bytes], member: Member) -> None:
    """Copy at most what the archive's own index announced."""
    left = member.size
    while left > 0 and (piece := content.read(min(CHUNK, left))):
        file.write(piece)
        left -= len(piece)
    if left:
        raise UserError(f"{member.name} in the downloaded archive is shorter than it says; run the same command again")
