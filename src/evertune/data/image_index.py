"""Cached facts about the images of an index below one root: size, time, SHA-256, and whether they can be decoded.

An image is read once. At the next start only its size and modification time are compared, so a million images take
seconds. The tables are stored beside the index and written atomically.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evertune.data.images import read_bytes, read_image
from evertune.data.perceptual_hash import LOOK, look_of
from evertune.data.rows import RowFile
from evertune.data.task import Sample
from evertune.utils.errors import DataError
from evertune.utils.files import digest, note_damage, sum_of, write_atomically

RECORD = np.dtype([("size", "<i8"), ("modified", "<i8"), ("sha256", "u1", 32), ("known", "u1"), ("shape", "<i4", 2)])
THERE, HASHED, DECODED, COMPARED = 1, 2, 3, 4
"""Levels of knowledge about an image: it exists, its content's hash, it can be decoded, its perceptual hash."""
SUM = b"crc32:"
AT_ONCE = 512
SAVE_EVERY = 60.0

Found = tuple[str, tuple[int, int], NDArray[Any] | None]
"""SHA-256, height, width and perceptual hash of an image."""
OnLooked = Callable[[int, int], None]


class ImageFault(NamedTuple):
    """Why an image can't be used; the caller, who knows the row, adds its origin."""

    kind: str
    message: str


class ImageIndex:
    """The images of `rows` below `root`. `allow_external_paths`: names and links may lead out of it."""

    def __init__(self, rows: RowFile, root: Path, *, allow_external_paths: bool = False) -> None:
        self.rows, self.root, self.allow_external_paths = rows, root.resolve(), allow_external_paths
        key = digest(str(self.root), str(allow_external_paths), str(RECORD))[:16]
        self._path = rows.folder / f"seen-{key}.npy"
        self._fingerprints_path = rows.folder / f"fingerprints-{key}.npy"
        self._looks_path = rows.folder / f"looks-{key}.npy"
        self._looks: NDArray[Any] | None = None
        self._records = _loaded(self._path, (rows.different_images,), RECORD)
        self._fingerprints: NDArray[Any] | None = None
        self._compared = np.zeros(rows.different_images, bool)  # with the disk, by this process
        self.faults: dict[int, ImageFault] = {}
        self.kept: dict[int, Sample] = {}  # samples that were read lately, by row; the oldest first
        self._inside = lru_cache(maxsize=65_536)(self._is_inside)

    def __reduce__(self) -> Any:
        """For another process, which looks at the images for itself."""
        return partial(ImageIndex, allow_external_paths=self.allow_external_paths), (self.rows, self.root)

    def path(self, name: str) -> Path:
        """Where the image of this name is."""
        return self.root / name

    def look(self, numbers: NDArray[Any], *, depth: int, on_looked: OnLooked | None = None) -> None:
        """Check the images `numbers` up to `depth`; problems are in `faults` afterwards."""
        numbers = np.unique(numbers)
        if depth >= COMPARED:
            self._load_looks()
        self._compare(numbers[~self._compared[numbers]])
        missing = [n for n in numbers[self._records["known"][numbers] < depth].tolist() if n not in self.faults]
        saved = time.monotonic()
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoding and hashing release the interpreter's lock
            for start in range(0, len(missing), AT_ONCE):
                chunk = missing[start : start + AT_ONCE]
                for number, found in zip(chunk, threads.map(lambda n: self._read(n, depth), chunk), strict=True):
                    self._note(number, found, depth)
                if on_looked:
                    on_looked(min(start + AT_ONCE, len(missing)), len(missing))
                if time.monotonic() - saved > SAVE_EVERY:
                    self._save()
                    saved = time.monotonic()
        if missing:
            self._save()

    @property
    def looks(self) -> NDArray[Any]:
        """(u,) perceptual hash (`LOOK`) of each image that was checked to that depth; zeros elsewhere."""
        return self._load_looks()

    def _load_looks(self) -> NDArray[Any]:
        if self._looks is None:
            self._looks = _loaded(self._looks_path, (self.rows.different_images,), LOOK)
            known, nothing = self._records["known"], np.zeros((), LOOK)
            known[(known == COMPARED) & (self._looks == nothing)] = DECODED  # the table was lost
        return self._looks

    def digests(self, numbers: NDArray[Any]) -> tuple[str, ...]:
        """SHA-256 of images; none where one is not known in this process."""
        records = self._records[numbers]
        if not (self._compared[numbers].all() and (records["known"] >= HASHED).all()):
            return ()
        return tuple(record["sha256"].tobytes().hex() for record in records)

    @property
    def hashes(self) -> NDArray[Any]:
        """(u, 32) SHA-256 of each image; zeros where it is not known."""
        hashes: NDArray[Any] = self._records["sha256"]
        return hashes

    @property
    def sizes(self) -> NDArray[Any]:
        """(u,) bytes of each image; 0 where it was not looked at."""
        sizes: NDArray[Any] = self._records["size"]
        return sizes

    @property
    def shapes(self) -> NDArray[Any]:
        """(u, 2) height and width of each image as a model gets it; zeros where it was not decoded."""
        shapes: NDArray[Any] = self._records["shape"]
        return shapes

    def faulty(self) -> NDArray[Any]:
        """(n,) True for the rows with an image that can't be used."""
        marks = np.zeros(len(self._records), np.int64)
        marks[list(self.faults)] = 1
        return per_row(self.rows, marks) > 0

    def fingerprints(self, chosen: NDArray[Any], compute: Callable[[int], str]) -> Iterator[str]:
        """The fingerprint of each row `chosen`; `compute` makes those that are not cached yet.

        The rows' images are checked before, so that cached values match their present content.
        """
        if self._fingerprints is None:
            self._fingerprints = _loaded(self._fingerprints_path, (len(self.rows), 32), np.dtype("u1"))
        kept = self._fingerprints
        missing = chosen[~kept[chosen].any(axis=1)]
        for at in missing.tolist():
            kept[at] = np.frombuffer(bytes.fromhex(compute(at)), np.uint8)
        if len(missing):
            write_atomically(self._fingerprints_path, _content(kept))
        return (kept[at].tobytes().hex() for at in chosen.tolist())

    def _compare(self, numbers: NDArray[Any]) -> None:
        """Drop the facts about images whose size or modification time has changed."""
        new, changed = False, False
        for number in numbers.tolist():
            name = self.rows.name(number)
            try:
                status = self._status(name)
            except DataError as problem:
                self.faults[number] = _fault(problem)
                continue
            record = self._records[number]
            if (record["size"], record["modified"]) != (status.st_size, status.st_mtime_ns) or not record["known"]:
                changed = changed or bool(record["known"])
                new = True
                self._records[number] = (status.st_size, status.st_mtime_ns, 0, THERE, 0)
            self._compared[number] = True
        if changed:  # first, so that no fingerprint outlives an image
            self._fingerprints_path.unlink(missing_ok=True)
            self._fingerprints = None
        if new:
            self._save()

    def _status(self, name: str) -> os.stat_result:
        path = os.path.join(self.root, name)  # noqa: PTH118  a million times: strings are faster
        try:
            status = os.lstat(path)
            linked = stat.S_ISLNK(status.st_mode)
            here = self._inside(os.path.dirname(path))  # noqa: PTH120
            inside = self.allow_external_paths or (here and (not linked or self._is_inside(path)))
            if linked:
                status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError) as problem:
            raise DataError(f": the image {path} does not exist", kind="missing image") from problem
        if not inside:
            way = "say 'allow_external_paths: true' in the task"
            raise DataError(f": the image {path} is a link to outside of {self.root}; {way}", kind="image outside")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f": the image {path} is no file", kind="missing image")
        return status

    def _is_inside(self, folder: str) -> bool:
        return Path(folder).resolve().is_relative_to(self.root)

    def _read(self, number: int, depth: int) -> Found | ImageFault:
        """The facts about an image up to `depth`; or why it can't be used."""
        path = self.path(self.rows.name(number))
        try:
            if depth < DECODED:
                return hashlib.sha256(read_bytes(path, origin="")).hexdigest(), (0, 0), None
            image, sha256 = read_image(path, origin="")
            return sha256, (image.height, image.width), look_of(image) if depth >= COMPARED else None
        except DataError as problem:
            return _fault(problem)

    def _note(self, number: int, found: Found | ImageFault, depth: int) -> None:
        if isinstance(found, ImageFault):
            self.faults[number] = found
            return
        sha256, shape, look = found
        if depth >= DECODED:
            self._records["shape"][number] = shape
        self._records["sha256"][number] = np.frombuffer(bytes.fromhex(sha256), np.uint8)
        self._records["known"][number] = max(depth, self._records["known"][number])
        if look is not None:
            self._load_looks()[number] = look

    def _save(self) -> None:
        if self._looks is not None:  # first, so that no record refers to a perceptual hash that is missing
            write_atomically(self._looks_path, _content(self._looks))
        write_atomically(self._path, _content(self._records))


def per_row(rows: RowFile, values: NDArray[Any]) -> NDArray[Any]:
    """(n,) the sum of (u,) integers of images over the images of each row; wraps around."""
    total = np.concatenate([[0], np.cumsum(values[rows.images], dtype=np.int64)])
    sums: NDArray[Any] = total[rows.firsts[1:]] - total[rows.firsts[:-1]]
    return sums


def _fault(problem: DataError) -> ImageFault:
    return ImageFault(problem.kind, str(problem).removeprefix(": "))


def _loaded(path: Path, shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """The table at `path`, to be changed in memory only; an empty one where it is missing or damaged."""
    if not path.exists():
        return np.zeros(shape, kind)
    try:
        content = path.read_bytes()
        # In memory: a map would keep the file open for as long as the task is there.
        values: NDArray[Any] | None = np.load(io.BytesIO(content)) if _is_whole(content) else None
        if values is not None and values.shape == shape and values.dtype == kind:
            return values
    except (OSError, ValueError, EOFError, SyntaxError, TokenError):  # NumPy's errors for a damaged header
        pass
    note_damage(path)  # a cache: damaged tables are rebuilt
    return np.zeros(shape, kind)


def _content(values: NDArray[Any]) -> bytes:
    """A table as NumPy writes it, followed by its checksum, which NumPy ignores."""
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue() + SUM + sum_of(stream.getvalue()).to_bytes(4, "little")


def _is_whole(content: bytes) -> bool:
    """Whether the checksum of a table holds."""
    at = len(content) - len(SUM) - 4
    return content[at:-4] == SUM and sum_of(memoryview(content)[:at]) == int.from_bytes(content[-4:], "little")
