"""A software bill of materials of evertune as installed: dependencies, fetched packages and shipped weights.

CycloneDX JSON, made with the library of pip-audit. It lists what a user of the package gets (`dependencies` of the
project and the extras that are named), not the tools of development.

    python scripts/sbom.py build/sbom.json --extras smol,data,serve,app
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from evertune.assets.packages import PACKAGES, Package
from evertune.utils.files import digest_of_file

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "src/evertune/models/checkpoints"
LICENCES = LicenseFactory()


def bill(extras: set[str]) -> Bom:
    """Evertune with everything that it needs at run time."""
    found = Bom()
    ours = distribution("evertune")
    found.metadata.component = root = component_of(ours, ComponentType.APPLICATION)
    parts = {name: component_of(one) for name, one in needed(ours, extras).items()}
    data = [component_of_package(package) for package in PACKAGES.values()]
    for part in [*parts.values(), *data, *shipped_weights()]:
        found.components.add(part)
    found.register_dependency(root, found.components)
    return found


def needed(package: Distribution, extras: set[str]) -> dict[str, Distribution]:
    """The installed distributions that a distribution requires, and those that they require, by name."""
    found: dict[str, Distribution] = {}
    waiting = list(requirements(package, extras))
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found or name == "evertune":
            continue
        try:
            found[name] = distribution(wanted.name)
        except PackageNotFoundError:
            raise SystemExit(f"{wanted} is not installed: make install") from None
        waiting += requirements(found[name], wanted.extras)
    return found


def requirements(package: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """What a distribution requires on this machine, with these of its extras."""
    for text in package.requires or ():
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield one


def component_of(package: Distribution, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    """An installed distribution with its version and licence."""
    name = canonicalize_name(package.name)
    purl = PackageURL("pypi", name=name, version=package.version)
    return Component(name=name, version=package.version, type=kind, purl=purl, licenses=licences_of(package))


def licences_of(package: Distribution) -> list[License]:
    """The licence expression of its metadata, else its short text, else its classifiers."""
    given = package.metadata
    classifiers = [
        text.rpartition(" :: ")[2] for text in given.get_all("Classifier", []) if text.startswith("License ::")
    ]
    short = given.get("License-Expression") or (given.get("License") or "").strip()
    if short and "\n" not in short:
        return [LICENCES.make_from_string(short)]
    return [LICENCES.make_with_name(text) for text in classifiers]


def component_of_package(package: Package) -> Component:
    """A wheel of PyPI that only data or weights are read from."""
    digest = HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)
    purl = PackageURL("pypi", name=package.name, version=package.version)
    licence = LICENCES.make_with_name(package.licence)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.DATA,
        purl=purl,
        hashes=[digest],
        licenses=[licence],
    )


def shipped_weights() -> list[Component]:
    """The checkpoints in the wheel."""
    return [
        Component(
            name=file.relative_to(CHECKPOINTS).as_posix(),
            type=ComponentType.MACHINE_LEARNING_MODEL,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest_of_file(file))],
            licenses=[LICENCES.make_from_string("Apache-2.0")],
        )
        for file in sorted(CHECKPOINTS.rglob("*.safetensors"))
    ]


def main() -> None:
    """Write the bill to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--extras", default="smol", help="those of evertune that are installed, comma-separated")
    given = parser.parse_args()
    found = bill({extra for extra in given.extras.split(",") if extra})
    given.file.parent.mkdir(parents=True, exist_ok=True)
    given.file.write_text(JsonV1Dot6(found).output_as_string(indent=1) + "\n")
    print(f"{given.file}: {len(found.components)} components")


if __name__ == "__main__":
    main()
