"""Packages as data: checksums, nothing outside the folder, no links, no network gives one clear line."""

from __future__ import annotations

import dataclasses
import io
import subprocess
from pathlib import Path

import pytest
from archives import FILES, zipped

from evertune import assets
from evertune.assets import pypi
from evertune.utils.errors import UserError
from evertune.utils.files import digest_of_file


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """Makes the package `toy`; its wheel lies in a folder that plays the index."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))

    def offer(data):
        wheel = tmp_path / "toy.whl"
        wheel.write_bytes(data)
        entry = assets.Package("toy", "1.0", digest_of_file(wheel), len(data), "toy/data/", "MIT", "", ending=".svg")
        monkeypatch.setitem(assets.PACKAGES, "toy", entry)
        monkeypatch.setattr(assets, "download", lambda package, place, progress: wheel)
        return entry

    return offer


@pytest.fixture
def toy(offered):
    return offered(zipped())


def test_only_the_wanted_members_are_unpacked(toy, tmp_path):
    folder = assets.unpacked("toy")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"done", "toy/data/a.svg", "toy/data/deep/b.svg"}
    assert (folder / "toy/data/deep/b.svg").read_bytes() == FILES["toy/data/deep/b.svg"]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert [path for path in tmp_path.rglob("slipped.svg") if folder not in path.parents] == []
    assert not Path("/slipped").exists()


def test_it_is_fetched_once(toy, monkeypatch):
    assets.unpacked("toy")
    monkeypatch.setattr(assets, "download", lambda *arguments: pytest.fail("fetched twice"))
    assets.unpacked("toy")


def test_a_changed_archive_is_refused(toy, monkeypatch):
    monkeypatch.setitem(assets.PACKAGES, "toy", dataclasses.replace(toy, sha256="0" * 64))
    with pytest.raises(UserError, match=r"toy==1.0: the downloaded file has checksum .* Nothing of it was used"):
        assets.unpacked("toy")
    assert not toy.folder.exists()


def test_what_would_fill_the_disk_is_refused(toy, monkeypatch):
    monkeypatch.setattr(pypi, "MOST_BYTES", 8)
    with pytest.raises(UserError, match="holds more than"):
        assets.unpacked("toy")
    assert not (toy.folder / "done").exists()


@pytest.mark.parametrize(
    "data",
    [b"no zip", zipped()[:200], zipped().replace(b"<svg/>", b"<gsv/>")],
    ids=["no zip", "cut off", "another content"],  # a zip holds the time, so its bytes are no name of a test
)
def test_a_damaged_archive(offered, data):
    entry = offered(data)
    with pytest.raises(UserError, match="not a sound wheel: .*; run the same command again"):
        assets.unpacked("toy")
    assert not (entry.folder / "done").exists()


def test_a_member_that_is_shorter_than_it_says(tmp_path):
    with pytest.raises(UserError, match=r"a.svg .* is shorter"):
        pypi.write_member("a.svg", 9, io.BytesIO(b"short"), tmp_path / "a.svg")


def test_a_member_that_is_longer_than_it_says(tmp_path):
    pypi.write_member("a.svg", 3, io.BytesIO(b"longer"), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes() == b"lon"


def test_folders_of_packages(monkeypatch, tmp_path):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    folders = {package.folder for package in assets.PACKAGES.values()}
    assert len(folders) == len(assets.PACKAGES)
    assert all(folder.parent == tmp_path / "packages" for folder in folders)
    assert assets.PACKAGES["easy-vqa"].folder.name == "easy-vqa-1.0"


# Downloads: nothing here leaves the machine.


def test_progress_is_told_while_pip_downloads(toy, tmp_path, monkeypatch):
    """The last word is that all is there; pip's temporary folder is below the place that is watched."""
    updates = []

    def pip(command, *, env, **_):
        assert env["TMPDIR"] == str(tmp_path / "place") and command[-1] == "toy==1.0"
        (tmp_path / "place" / "toy-1.0-py3-none-any.whl").write_bytes(zipped())
        return subprocess.CompletedProcess(command, 0, b"", b"")

    (tmp_path / "place").mkdir()
    monkeypatch.setattr(subprocess, "run", pip)
    wheel = pypi.download(toy, tmp_path / "place", lambda *state: updates.append(state))
    assert wheel.read_bytes() == zipped()
    assert updates[-1] == ("toy", toy.bytes, toy.bytes)


@pytest.mark.slow
def test_no_index_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"could not download easy-vqa==1.0 .* run the same command again"):
        assets.unpacked("easy-vqa")


def test_unknown_package():
    with pytest.raises(UserError, match="did you mean 'easy-vqa'"):
        assets.unpacked("easy-vqua")
