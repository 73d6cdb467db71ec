"""constraints.txt holds a version of everything that pyproject.toml asks for, and pyproject.toml allows it."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from evertune.models import compat

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WANTED = [Requirement(line) for line in [*PROJECT["dependencies"], *(r for rows in EXTRAS.values() for r in rows)]]
PYTHONS = ("3.11.7", "3.12.1", "3.13.0")


def locked(python):
    """{name: version} of constraints.txt on Linux and this Python."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        pinned = Requirement(line)
        here = {"python_full_version": python, "python_version": python.rpartition(".")[0], "sys_platform": "linux"}
        if pinned.marker is None or pinned.marker.evaluate(here):
            assert pinned.name not in found, f"two versions of {pinned.name} on Python {python}"
            (found[canonicalize_name(pinned.name)],) = (spec.version for spec in pinned.specifier)
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_a_version_of_everything_that_is_asked_for(python):
    """Else a newcomer gets what was never tested: `make lock` after a change of pyproject.toml."""
    versions = locked(python)
    missing = [str(r) for r in WANTED if r.name != "evertune" and canonicalize_name(r.name) not in versions]
    assert not missing
    outside = [
        f"{r} is locked to {versions[canonicalize_name(r.name)]}"
        for r in WANTED
        if r.name != "evertune" and not r.specifier.contains(versions[canonicalize_name(r.name)], prereleases=True)
    ]
    assert not outside


@pytest.mark.parametrize("name", ["transformers", "accelerate", "peft"])
def test_ranges_end_at_the_minor_version_that_is_locked(name):
    """The next minor version is allowed when the suite has passed on it."""
    (requirement,) = (r for r in WANTED if r.name == name)
    major, minor = map(int, locked("3.11.7")[name].split(".")[:2])
    assert not requirement.specifier.contains(f"{major}.{minor + 1}")
    assert requirement.specifier.contains(version(name), prereleases=True)


def test_torch_is_installed_from_the_lock():
    assert f"TORCH := {locked('3.11.7')['torch']}\n" in (ROOT / "Makefile").read_text()


def test_private_ways_of_transformers_are_listed_by_module():
    """What reaches into an underscore of the library stands in a table of docs/models.md, and what it lists exists."""
    source = ROOT / "src" / "evertune"
    listed = set(re.findall(r"^\| `(\S+\.py)` \|", (ROOT / "docs" / "models.md").read_text(), re.MULTILINE))
    assert listed and all((source / module).is_file() for module in listed)
    deep = re.compile(
        r"from transformers\.models\.\S+ import|\._get_arguments|\._attn_implementation|mm_encoder_outputs"
    )
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if deep.search("\n".join(line for line in path.read_text().splitlines() if '"""' not in line))
    }
    assert found - {"models/chat.py"} <= listed  # chat.py only looks whether forward takes mm_encoder_outputs


def test_the_tested_versions_are_those_that_are_allowed():
    (requirement,) = (r for r in WANTED if r.name == "transformers")
    assert all(requirement.specifier.contains(f"{minor}.0") for minor in compat.TESTED)
    last = max(tuple(map(int, minor.split("."))) for minor in compat.TESTED)
    assert not requirement.specifier.contains(f"{last[0]}.{last[1] + 1}.0")
