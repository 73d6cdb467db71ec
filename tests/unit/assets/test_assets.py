"""Packages as data: checksums, nothing outside the folder, no links, no network gives one clear line."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import io
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from archives import FILES, ar, debian, tarred, zipped

from evertune import assets
from evertune.assets import registry, unpacking
from evertune.assets.debian import MIRRORS, Debian
from evertune.assets.npm import Npm, registry_address
from evertune.assets.pypi import PyPI
from evertune.utils.errors import UserError

KINDS = {"wheel": (PyPI(), zipped), "npm": (Npm(), tarred), "debian": (Debian(), debian)}


def sha256(data):
    import hashlib

    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """Makes the package `toy` of a registry; its archive lies in a folder that plays the registry."""
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))

    def offer(source, data):
        archive = tmp_path / f"toy{source.ending}"
        archive.write_bytes(data)
        entry = assets.Package(
            source, "toy", "1.0", sha256(data), len(data), "toy/data/", "MIT", "", endings=(".svg",), path="toy.deb"
        )
        monkeypatch.setitem(assets.PACKAGES, "toy", entry)
        monkeypatch.setattr(type(source), "download", lambda self, package, place, progress: archive)
        return entry

    return offer


@pytest.fixture
def toy(offered, request):
    source, make = KINDS[request.param]
    return offered(source, make())


every_kind = pytest.mark.parametrize("toy", KINDS, indirect=True)


@every_kind
def test_only_the_wanted_members_are_unpacked(toy, tmp_path):
    folder = assets.unpacked("toy")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    inside = {"toy/data/up/slipped.svg"} if toy.registry.ending != ".whl" else set()  # below a folder, not a link
    assert found - inside == {"done", "toy/data/a.svg", "toy/data/deep/b.svg"}
    assert (folder / "toy/data/deep/b.svg").read_bytes() == FILES["toy/data/deep/b.svg"]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert [path for path in tmp_path.rglob("slipped.svg") if folder not in path.parents] == []
    assert not Path("/slipped").exists()


@every_kind
def test_it_is_fetched_once(toy, monkeypatch):
    assets.unpacked("toy")
    monkeypatch.setattr(type(toy.registry), "download", lambda *arguments: pytest.fail("fetched twice"))
    assets.unpacked("toy")


@every_kind
def test_a_changed_archive_is_refused(toy, monkeypatch):
    monkeypatch.setitem(assets.PACKAGES, "toy", dataclasses.replace(toy, sha256="0" * 64))
    with pytest.raises(UserError, match=r"toy(==|@|=)1.0: the downloaded file has checksum .* Nothing of it was used"):
        assets.unpacked("toy")
    assert not toy.folder.exists()


@every_kind
def test_what_would_fill_the_disk_is_refused(toy, monkeypatch):
    monkeypatch.setattr(unpacking, "MOST_BYTES", 8)
    with pytest.raises(UserError, match="holds more than"):
        assets.unpacked("toy")
    assert not (toy.folder / "done").exists()


@pytest.mark.parametrize("compression", ["gz", "xz", "bz2"])
def test_compressions_of_debian_packages(offered, compression):
    offered(Debian(), debian(compression=compression))
    assert (assets.unpacked("toy") / "toy/data/a.svg").read_bytes() == b"<svg/>"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_package_of_dpkg(offered, tmp_path):
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN" / "control").write_text(
        "Package: toy\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: toy\n"
    )
    (source / "toy" / "data").mkdir(parents=True)
    (source / "toy" / "data" / "odd.svg").write_bytes(b"123")
    subprocess.run(["dpkg-deb", "--build", "-Zxz", source, tmp_path / "made.deb"], check=True, capture_output=True)
    offered(Debian(), (tmp_path / "made.deb").read_bytes())
    assert (assets.unpacked("toy") / "toy/data/odd.svg").read_bytes() == b"123"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no data.tar in it"),
        (b"!<arch>\n" + b"x" * 60, "no data.tar in it"),
        (ar({"debian-binary": b"2.0\n"}), "no data.tar in it"),
        (ar({"data.tar.zst": b"(\xb5/\xfd" + bytes(600)}), "is not a tar archive that Python"),
        (ar({"data.tar.xz": tarred(mode="w:xz")[:90]}), "is not a tar archive that Python"),
    ],
)
def test_a_damaged_debian_package(offered, data, says):
    entry = offered(Debian(), data)
    with pytest.raises(UserError, match=says):
        assets.unpacked("toy")
    assert not (entry.folder / "done").exists()


@pytest.mark.parametrize(
    ("source", "data"),
    [(PyPI(), b"no zip"), (Npm(), b"no tar"), (Npm(), tarred()[:10] + b"\xff" * 200)],
    ids=["zip", "tar", "gzip"],  # a gzip holds the time: as an id, two workers would collect different tests
)
def test_a_damaged_archive(offered, source, data):
    entry = offered(source, data)
    with pytest.raises(UserError, match="not a sound wheel|is not a tar archive"):
        assets.unpacked("toy")
    assert not (entry.folder / "done").exists()


def test_a_member_that_is_shorter_than_it_says(tmp_path):
    member = registry.ArchiveMember("a.svg", 9, lambda: io.BytesIO(b"short"))
    with pytest.raises(UserError, match=r"a.svg .* is shorter"):
        unpacking._write(member, tmp_path / "a.svg")


def test_a_member_that_is_longer_than_it_says(tmp_path):
    unpacking._write(registry.ArchiveMember("a.svg", 3, lambda: io.BytesIO(b"longer")), tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes() == b"lon"


def test_names_with_a_scope_and_an_epoch_are_one_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    folders = {package.folder for package in assets.PACKAGES.values()}
    assert len(folders) == len(assets.PACKAGES)
    assert all(folder.parent == tmp_path / "packages" for folder in folders)
    assert assets.PACKAGES["easy-vqa"].folder.name == "easy-vqa-1.0"


# Downloads: nothing here leaves the machine.


@pytest.fixture
def served(tmp_path):
    """A registry on this machine: (address, folder)."""
    folder = tmp_path / "registry"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *arguments: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_client(monkeypatch, tmp_path):
    """No npm and no apt on the path, no proxy, an empty home."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def package_of(source, data, **changes):
    facts = {"name": "@toy/set", "version": "1.0", "sha256": sha256(data), "bytes": len(data), "members": "toy/"}
    return assets.Package(source, licence="MIT", home="", **{**facts, **changes})


def client(folder, name, script):
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def put(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_an_npm_tarball_from_the_users_registry(served, no_client, monkeypatch):
    address, folder = served
    data = tarred()
    put(folder, "@toy/set/-/set-1.0.tgz", data)
    monkeypatch.setenv("npm_config_registry", address)
    monkeypatch.setitem(assets.PACKAGES, "toy", package_of(Npm(), data))
    told = []
    found = assets.unpacked("toy", progress=lambda *state: told.append(state))
    assert (found / "toy/data/a.svg").read_bytes() == b"<svg/>"
    assert told[-1] == ("@toy/set", len(data), len(data))


def test_never_more_is_downloaded_than_was_announced(served, no_client, monkeypatch):
    address, folder = served
    put(folder, "@toy/set/-/set-1.0.tgz", bytes(5_000_000))
    monkeypatch.setenv("npm_config_registry", address)
    monkeypatch.setattr(registry, "CHUNK", 100)
    package = package_of(Npm(), b"x" * 1000)
    assert package.registry.download(package, no_client / "bin", None).stat().st_size == 1001


@pytest.mark.parametrize("end", ["echo 'E: Version not found' >&2; exit 100", "kill -9 $$"])
def test_a_client_that_fails_or_is_killed_leaves_it_to_the_address(served, no_client, monkeypatch, end):
    address, folder = served
    data = debian()
    put(folder, "pool/toy.deb", data)
    client(no_client, "apt-get", f"echo part > half.deb; {end}")
    monkeypatch.setattr("evertune.assets.debian.MIRRORS", (address,))
    package = package_of(Debian(), data, path="pool/toy.deb")
    assert package.registry.download(package, no_client, None).read_bytes() == data


def test_the_client_goes_first(no_client, monkeypatch):
    put(no_client, "kept.deb", debian())
    monkeypatch.setenv("PATH", f"{no_client / 'bin'}:/usr/bin:/bin")
    client(no_client, "apt-get", f'test "$3" = toy=1.0 && cp {no_client / "kept.deb"} ./toy_1.0_all.deb')
    monkeypatch.setattr("evertune.assets.debian.MIRRORS", ())
    package = package_of(Debian(), debian(), name="toy")
    place = no_client / "place"
    place.mkdir()
    assert package.registry.download(package, place, None).name == "toy_1.0_all.deb"


def test_no_npm_registry_is_one_clear_line(no_client, monkeypatch):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")
    with pytest.raises(UserError) as raised:
        assets.unpacked("@iconify-json/noto")
    said = str(raised.value)
    assert said.startswith("could not download @iconify-json/noto@1.2.9 from the npm registry (")
    assert "http://127.0.0.1:9/@iconify-json/noto/-/noto-1.2.9.tgz: " in said
    assert said.endswith("~/.npmrc), then run the same command again") and "\n" not in said


def test_no_debian_mirror_is_one_clear_line(no_client, monkeypatch):
    client(no_client, "apt-get", "echo 'W: something' >&2; echo 'E: no network' >&2; exit 100")
    monkeypatch.setattr("evertune.assets.debian.MIRRORS", ("http://127.0.0.1:9/debian",))
    with pytest.raises(
        UserError, match=r"could not download openclipart-svg=1:0.18.* \(E: no network; http://127.0.0.1:9"
    ):
        assets.unpacked("openclipart-svg")


def test_no_index_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setenv("EVERTUNE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"could not download easy-vqa==1.0 .* run the same command again"):
        assets.unpacked("easy-vqa")


@pytest.mark.parametrize(
    ("npmrc", "environment", "expected"),
    [
        ("", {}, "https://registry.npmjs.org"),
        ("registry=http://own/npm/\n", {}, "http://own/npm"),
        ("; registry=http://no\nregistry = 'http://own'\n", {}, "http://own"),
        ("registry=http://own\n", {"npm_config_registry": "http://env"}, "http://env"),
        ("registry=http://own\n", {"NPM_CONFIG_REGISTRY": "http://env/"}, "http://env"),
        ("@toy:registry=http://scope\n", {"npm_config_registry": "http://env"}, "http://scope"),
        ("@other:registry=http://scope\n", {}, "https://registry.npmjs.org"),
    ],
)
def test_the_users_npm_registry(npmrc, environment, expected, no_client, monkeypatch):
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (no_client / "home" / ".npmrc").write_text(npmrc)
    assert registry_address("@toy/set") == expected


def test_addresses_of_debian_packages():
    package = assets.PACKAGES["tuxpaint-stamps-default"]
    assert package.registry.addresses(package)[0] == (
        f"{MIRRORS[0]}/pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb"
    )


def test_unknown_package():
    with pytest.raises(UserError, match="did you mean 'easy-vqa'"):
        assets.unpacked("easy-vqua")
