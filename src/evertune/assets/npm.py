"""The npm registry, or the one that the user's npm is set to: tarballs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evertune.assets.registry import ArchiveMember, Package, Registry
from evertune.assets.tarballs import tar_members

PUBLIC = "https://registry.npmjs.org"


class Npm(Registry):
    """Tarballs by `npm pack` where there is an npm, else from the address that its settings name."""

    title = "the npm registry"
    ending = ".tgz"
    advice = "check the network and npm's settings (npm config list, or npm_config_registry and ~/.npmrc)"

    def release_of(self, name: str, version: str) -> str:
        """As `npm install` takes it."""
        return f"{name}@{version}"

    def command(self, package: Package, place: Path) -> list[str]:
        """`pack` of a published package downloads its tarball; scripts are switched off all the same."""
        return ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(place), package.release]

    def addresses(self, package: Package) -> list[str]:
        """Tarballs of all registries lie at NAME/-/LAST-PART-VERSION.tgz."""
        last = package.name.rpartition("/")[2]
        return [f"{registry_address(package.name)}/{package.name}/-/{last}-{package.version}.tgz"]

    @contextmanager
    def members(self, archive: Path) -> Iterator[Iterator[ArchiveMember]]:
        """The files of a tarball; npm puts them all below `package/`."""
        with archive.open("rb") as file, tar_members(file, name=archive.name) as found:
            yield found


def registry_address(name: str) -> str:
    """The registry for the package `name`: its scope's, the environment's, that of `~/.npmrc`, else the public one."""
    written = _npmrc()
    scope = f"{name.partition('/')[0]}:registry" if name.startswith("@") else "registry"
    environment = {key.lower(): value for key, value in os.environ.items()}  # npm reads it in either case
    chosen = (written.get(scope), environment.get("npm_config_registry"), written.get("registry"))
    return next(filter(None, chosen), PUBLIC).rstrip("/")


def _npmrc() -> dict[str, str]:
    """The settings `key=value` in `~/.npmrc`."""
    try:
        text = (Path.home() / ".npmrc").read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):  # no such file, or no home
        return {}
    return {
        key: value.strip("\"'") for key, value in re.findall(r"^\s*([^\s#;=]+)\s*=\s*(\S+)\s*$", text, re.MULTILINE)
    }
