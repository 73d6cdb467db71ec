"""Whether the wheel and the source archive in a folder are what should be published: their files, sizes and version.

`make dist` runs it after the build. A wheel that lacks a template or a checkpoint works in a clone and fails
everywhere else, and a wheel with a stray file is published for good.

    python scripts/check_dist.py dist --tag v0.1.0
"""

from __future__ import annotations

import argparse
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
LARGEST_WHEEL = 25_000_000
"""Bytes; the weights of three small models are nine tenths of it. PyPI takes 100 MB."""


def wheel_mistakes(wheel: Path) -> list[str]:
    """What is wrong with a wheel: it has the tracked files of src/ and its metadata, no more and no less."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    packaged = {name for name in names if ".dist-info/" not in name}
    return _differences(wheel.name, packaged, {name.removeprefix("src/") for name in tracked("src")}) + [
        f"{wheel.name} has {wheel.stat().st_size:,} bytes, more than {LARGEST_WHEEL:,}"
        for _ in range(wheel.stat().st_size > LARGEST_WHEEL)
    ]


def sdist_mistakes(archive: Path) -> list[str]:
    """What is wrong with a source archive: it has every tracked file that is needed to build and to test."""
    with tarfile.open(archive) as content:
        names = {PurePosixPath(*PurePosixPath(one.name).parts[1:]).as_posix() for one in content if one.isfile()}
    return _differences(archive.name, names - {"PKG-INFO"}, tracked("."))


def version_mistakes(folder: Path, tag: str | None) -> list[str]:
    """Whether the names of the files, pyproject.toml, CITATION.cff and the tag give one version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = [f"{file.name} is not of version {project}" for file in _built(folder) if f"-{project}" not in file.name]
    if f"version: {project}\n" not in (ROOT / "CITATION.cff").read_text():
        found.append(f"CITATION.cff is not of version {project}")
    if tag is not None and tag != f"v{project}":
        found.append(f"the tag is {tag}, and pyproject.toml has version {project}")
    return found


def tracked(folder: str) -> set[str]:
    """The files below a folder of the repository that are in git."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", folder]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in listed if name and (ROOT / name).exists()}


def _differences(place: str, found: set[str], expected: set[str]) -> list[str]:
    lacking = [f"{place} lacks {name}" for name in sorted(expected - found)]
    return lacking + [f"{place} has {name}, which is not in git" for name in sorted(found - expected)]


def _built(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])


def main() -> None:
    """Print the sizes and what is wrong; exit code 1 when something is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tag", help="the git tag of the release, such as v0.1.0")
    given = parser.parse_args()
    built = _built(given.folder)
    found = version_mistakes(given.folder, given.tag or None)
    if len(built) != 2:
        found.append(f"{given.folder} has {len(built)} archives, expected one wheel and one source archive: empty it")
    for file in built:
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
        found += wheel_mistakes(file) if file.suffix == ".whl" else sdist_mistakes(file)
    print("\n".join(found) or "contents and versions are right")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
