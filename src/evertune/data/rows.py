"""Rows of any format, written once in one common form with an index, and read on access.

    rows/llava-3f2a.../rows.jsonl      {id, images, instruction, answers, origin, extras}, one line per sample
                       places.npy      (n, 2) where each row that can be used begins and how long it is
                       texts.npy       (n,) hash of instruction and answers
                       questions.npy   (n,) hash of the instruction
                       counts.npy      (n,) images of each row
                       images.npy    their numbers, row after row
                       names.jsonl     the different images, in the order of their first use
                       name_places.npy (u, 2) where each name begins and how long it is
                       problems.jsonl  {kind, message} of the rows that can't be used
                       place           the file or folder as it was called then, which messages begin with
                       sums.json       CRC-32 of each file, compared when the index is opened

The folder is written whole or not at all. Its key holds everything that decides it (format, options, prompt, and path,
size and time of the source files), so that a changed file is a new folder. Memory while it is written: about 60 bytes
a row; afterwards the arrays are memory-mapped where they
are used (`open_files`).
"""

from __future__ import annotations

import itertools
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evertune.data.formats import Row
from evertune.data.images import short
from evertune.data.open_files import RandomReader, mapped, reader
from evertune.data.row_checks import checked_instruction
from evertune.utils.cache_files import note_use
from evertune.utils.errors import DataError, UserError
from evertune.utils.files import (
    cache_folder,
    digest,
    digest_of,
    digest_of_file,
    note_damage,
    read_json,
    scratch_folder,
    sum_of_file,
    whole_folder,
)
from evertune.utils.regular_files import most_from
from evertune.utils.temporary_files import take_name

VERSION = 4
SUMS = "sums.json"
ARRAYS = ("places", "texts", "questions", "counts", "images", "name_places")
FILES = ("rows.jsonl", "names.jsonl", "problems.jsonl", "place", *(f"{name}.npy" for name in ARRAYS))
CHUNK = 16 << 20
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class IndexKey:
    """Everything that decides an index, beside the content of the files."""

    format: str
    version: str | int
    place: Path
    split: str
    options: Mapping[str, Any]
    prompt: str
    allow_external_paths: bool
    files: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """Where the index of this recipe is, or will be."""
        sources = [(str(path.resolve()), s.st_size, s.st_mtime_ns) for path in self.files for s in [path.stat()]]
        key = digest_of(
            {
                "place": str(self.place.resolve()),
                "index": VERSION,
                "format": [self.format, self.version],
                "split": self.split,
                "options": dict(self.options),
                "prompt": self.prompt,
                "allow_external_paths": self.allow_external_paths,
                "files": sources,
            }
        )
        return cache_folder() / "rows" / f"{self.format}-{key[:24]}"


def indexed(recipe: IndexKey, read: Callable[[], Iterable[Row | DataError]]) -> RowFile:
    """The index of `recipe`, made from the rows that `read` gives first where it is not in the cache.

    Raises:
        DataError: the file as a whole can't be read; single rows are problems of the index.
    """
    try:
        folder = recipe.folder
    except OSError as problem:
        raise DataError(f"{problem.filename} can't be read ({problem.strerror})", kind="missing file") from problem
    if folder.exists() and not _is_whole(folder):
        note_damage(folder)
    if not folder.exists():
        most = most_from(recipe.files) if recipe.files else None  # of the hub nothing is known
        with whole_folder(folder) as place:
            _fill(place, recipe, read(), most=most)
    note_use(folder)
    return RowFile(folder, place=recipe.place)


def indexed_by_content(recipe: IndexKey, rows: Iterable[Row | DataError]) -> RowFile:
    """The index of rows that can be read only once: written first, and found again by what was written."""
    folder = cache_folder() / "rows"
    with scratch_folder(folder / recipe.format) as place:
        _fill(place, recipe, rows, most=None)
        content = digest(*(digest_of_file(place / name) for name in FILES))
        whole = folder / f"{recipe.format}-{content[:24]}"
        if whole.exists() and not _is_whole(whole):
            note_damage(whole)
        take_name(place, whole)
    return RowFile(whole, place=recipe.place)


def _fill(folder: Path, recipe: IndexKey, rows: Iterable[Row | DataError], *, most: int | None) -> None:
    with _Writer(folder, recipe.place, most=most) as writer:
        (folder / "place").write_text(str(recipe.place), encoding="utf-8")
        for row in rows:
            writer.add(row, recipe)


def _is_whole(folder: Path) -> bool:
    """Whether the checksums of an index hold."""
    try:
        return bool(read_json(folder / SUMS) == _sums(folder))
    except (OSError, UserError):
        return False


def _sums(folder: Path) -> dict[str, int]:
    """CRC-32 of each file of an index; the tables about its images change and have their own."""
    return {name: sum_of_file(folder / name) for name in FILES}


class RowFile:
    """The rows of an index; only the arrays' pages that are looked at are in memory.

    `place` is the current path of the file or folder, as the user gave it, for messages.
    """

    def __init__(self, folder: Path, *, place: Path) -> None:
        self.folder = folder
        self._then, self._now = (folder / "place").read_text(encoding="utf-8"), str(place)
        self._number = next(_numbers)
        self._paths = {name: folder / name for name in FILES}
        # (n + 1,) where each row's images begin in `images`
        self.firsts = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        self._different = len(self._array("name_places.npy"))

    def __reduce__(self) -> Any:
        """For another process: the folder, not what is open."""
        return partial(RowFile, place=Path(self._now)), (self.folder,)

    def _array(self, name: str) -> NDArray[Any]:
        return mapped(self._paths[name], self._number)

    def _line(self, name: str, place: NDArray[Any]) -> Any:
        return json.loads(reader(self._paths[name], self._number).read(place))

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def __getitem__(self, at: int) -> dict[str, Any]:
        row: dict[str, Any] = self._line("rows.jsonl", self._array("places.npy")[at])
        row["origin"] = self._as_called_now(row["origin"])
        return row

    @property
    def texts(self) -> NDArray[Any]:
        """(n,) hash of each row's instruction and answers."""
        return self._array("texts.npy")

    @property
    def questions(self) -> NDArray[Any]:
        """(n,) hash of each row's instruction."""
        return self._array("questions.npy")

    @property
    def counts(self) -> NDArray[Any]:
        """(n,) how many images each row has."""
        return self._array("counts.npy")

    @property
    def images(self) -> NDArray[Any]:
        """The numbers of the rows' images, row after row."""
        return self._array("images.npy")

    def _as_called_now(self, message: str) -> str:
        return self._now + message.removeprefix(self._then) if message.startswith(self._then) else message

    @property
    def lengths(self) -> NDArray[Any]:
        """(n,) bytes of each row as it is written: at least those of its texts."""
        lengths: NDArray[Any] = self._array("places.npy")[:, 1]
        return lengths

    @property
    def different_images(self) -> int:
        """How many different images there are."""
        return self._different

    def holding(self, texts: Iterable[str]) -> NDArray[Any]:
        """(n,) True for each row that has one of `texts` anywhere; the file is read once, and no row is parsed."""
        found = np.zeros(len(self), bool)
        wanted = [re.escape(encode_basestring(text)[1:-1].encode()) for text in texts]
        if not wanted or not len(self):
            return found
        pattern, begins = re.compile(b"|".join(wanted)), self._array("places.npy")[:, 0]
        at = 0
        with (self.folder / "rows.jsonl").open("rb") as stream:
            while lines := stream.readlines(CHUNK):
                content = b"".join(lines)
                hits = np.array([at + hit.start() for hit in pattern.finditer(content)], np.int64)
                found[np.unique(np.searchsorted(begins, hits, side="right") - 1)] = True
                at += len(content)
        return found

    def name(self, image: int) -> str:
        """The name of an image by its number."""
        name: str = self._line("names.jsonl", self._array("name_places.npy")[image])
        return name

    def images_of(self, at: int) -> NDArray[Any]:
        """The numbers of a row's images."""
        return self.images[self.firsts[at] : self.firsts[at + 1]]

    def problems(self) -> Iterator[DataError]:
        """The errors of the unusable rows, in their order."""
        with (self.folder / "problems.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                content = json.loads(line)
                yield DataError(self._as_called_now(content["message"]), kind=content["kind"])


def _as_array(values: array[int], kind: Any) -> NDArray[Any]:
    return np.frombuffer(values, kind) if values else np.empty(0, kind)


class _Writer:
    """Writes an index: rows as they come, arrays at the end."""

    def __init__(self, folder: Path, source: Path, *, most: int | None) -> None:
        self._folder, self._source, self._most, self._written = folder, source, most, 0
        self._rows, self._names, self._problems = (
            (folder / name).open("wb") for name in ("rows.jsonl", "all-names.jsonl", "problems.jsonl")
        )
        self._at = 0
        self._places, self._ids, self._texts, self._questions = array("q"), array("q"), array("Q"), array("Q")
        self._counts, self._name_hashes = array("H"), array("q")
        self._unique = bytearray()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._finish()
        for stream in (self._rows, self._names, self._problems):
            stream.close()

    def add(self, row: Row | DataError, recipe: IndexKey) -> None:
        """Write one row, or its error."""
        try:
            if isinstance(row, DataError):
                raise row
            instruction = checked_instruction(
                row, prompt=recipe.prompt, allow_external_paths=recipe.allow_external_paths
            )
            self._write(row, instruction)
        except DataError as problem:
            if problem.of_file:
                raise
            line = json.dumps({"kind": problem.kind, "message": str(problem)})
            self._count(len(line))
            self._problems.write(line.encode() + b"\n")

    def _count(self, size: int) -> None:
        self._written += size
        if self._most is not None and self._written > self._most:
            complaint = f"its rows take more than {self._most >> 20:,} MiB, the most for files of this size"
            raise DataError(f"{self._source}: {complaint}", kind="huge file")

    def _write(self, row: Row, instruction: str) -> None:
        names = [encode_basestring(name) for name in row.images]
        line = _line(row, names, instruction)
        self._count(len(line) + sum(map(len, names)))
        self._rows.write(line)
        self._places.extend((self._at, len(line) - 1))
        self._at += len(line)
        # Python's own hash is fast; it differs between processes, but is compared only within one.
        self._ids.append(hash(row.id))
        self._unique.append(row.unique)
        text = blake2b(instruction.encode(), digest_size=8)
        self._questions.append(int.from_bytes(text.digest(), "little"))
        text.update("".join(f"\0{answer}" for answer in row.answers).encode())
        self._texts.append(int.from_bytes(text.digest(), "little"))
        self._counts.append(len(row.images))
        for name in names:
            self._name_hashes.append(hash(name))
            self._names.write(name.encode() + b"\n")

    def _finish(self) -> None:
        self._rows.flush()
        self._names.close()
        places = _as_array(self._places, np.int64).reshape(-1, 2)
        good = self._without_repeated(places)
        counts = _as_array(self._counts, np.uint16)
        firsts, numbers = _numbered(_as_array(self._name_hashes, np.int64))
        self._save("places", places[good])
        self._save("texts", _as_array(self._texts, np.uint64)[good])
        self._save("questions", _as_array(self._questions, np.uint64)[good])
        self._save("counts", counts[good])
        self._save("images", numbers[np.repeat(good, counts)])
        self._save("name_places", self._write_names(firsts))
        (self._folder / "all-names.jsonl").unlink()
        self._problems.flush()
        (self._folder / SUMS).write_text(json.dumps(_sums(self._folder)), encoding="utf-8")

    def _save(self, name: str, values: NDArray[Any]) -> None:
        np.save(self._folder / f"{name}.npy", values)

    def _without_repeated(self, places: NDArray[Any]) -> NDArray[Any]:
        """(n,) True for kept rows: those whose id has not occurred before."""
        ids, unique = _as_array(self._ids, np.int64), np.array(self._unique, dtype=np.uint8).astype(bool)
        good = np.ones(len(ids), bool)
        order = np.argsort(ids, kind="stable")
        same = np.flatnonzero(ids[order][1:] == ids[order][:-1]) + 1
        first, pairs = 0, []
        for at in same.tolist():
            later = order[at]
            first = first if ids[order[first]] == ids[later] else at - 1
            if unique[later]:
                pairs.append((int(later), int(order[first])))
        for later, first in sorted(pairs):  # as they stand in the file, not by their hashes
            self._refuse_repeated(places[first], places[later], good, later)
        return good

    def _refuse_repeated(self, first: NDArray[Any], later: NDArray[Any], good: NDArray[Any], at: int) -> None:
        rows = RandomReader(self._folder / "rows.jsonl")
        one, other = (json.loads(rows.read(place)) for place in (first, later))
        if one["id"] == other["id"]:  # the hashes are equal; the ids nearly certainly too
            good[at] = False
            complaint = f"{other['origin']}: the id {short(other['id'])} is already used at {one['origin']}"
            self._problems.write(json.dumps({"kind": "repeated id", "message": complaint}).encode() + b"\n")

    def _write_names(self, firsts: NDArray[Any]) -> NDArray[Any]:
        """Write the names at the places `firsts` (ascending) of all names; return where each begins and how long."""
        places = array("q")
        wanted, written, at = iter(firsts.tolist()), (self._folder / "names.jsonl").open("wb"), 0
        following = next(wanted, None)
        with written, (self._folder / "all-names.jsonl").open("rb") as lines:
            for number, line in enumerate(lines):
                if number == following:
                    written.write(line)
                    places.extend((at, len(line) - 1))
                    at += len(line)
                    following = next(wanted, None)
        return _as_array(places, np.int64).reshape(-1, 2)


def _line(row: Row, names: Sequence[str], instruction: str) -> bytes:
    """The row as a line of JSON. By hand, because `json.dumps` makes an encoder anew each time, a million times."""
    text = encode_basestring
    extras = f', "extras": {json.dumps(dict(row.extras), ensure_ascii=False)}' if row.extras else ""
    line = (
        f'{{"id": {text(row.id)}, "images": [{", ".join(names)}], "instruction": {text(instruction)}, '
        f'"answers": [{", ".join(map(text, row.answers))}], "origin": {text(row.origin)}{extras}}}\n'
    )
    return line.encode()


def _numbered(hashes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Places of the first use of each different hash, ascending, and for each hash the number of its first use.

    64 bits: a million names share one with a probability of 3e-8.
    """
    _, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(firsts, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return firsts[order], rank[inverse]
