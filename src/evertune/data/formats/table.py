"""A table by the names of its columns: CSV, TSV, or Parquet (extra `data`).

The image column names files, or holds the images: in base64 (VLMEvalKit), or as `{bytes, path}` (Parquet of the hub).

{name: birds, format: table, data: birds.csv, options: {image: file, instruction: question, answer: label}}
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from evertune.data.arrow import parquet
from evertune.data.arrow_process import MOST_COLUMNS
from evertune.data.columns import Columns, is_missing
from evertune.data.embedded import EmbeddedImages, folder, is_inside
from evertune.data.formats import Row
from evertune.utils.errors import DataError, UserError
from evertune.utils.parsing import json_value
from evertune.utils.regular_files import open_regular

ABOUT = {
    "title": "a table by the names of its columns: CSV, TSV, Parquet",
    "source": "you",
    "files": "a .csv, .tsv or .parquet file with a header; every column may stand in the prompt",
    "licence": "yours",
    "citation": "none",
}
PROMPT = "{instruction}"
FIRST = 1024
"""Number of rows that are searched for the first image."""
LONGEST_CELL = 64 << 20
"""Most characters of a cell: a longer one is no image in base64, but a quote that is not closed."""
MOST_MARKS = 1_000_000
"""Commas of a row, those within its texts included."""
LONGEST_LINE = 4 * LONGEST_CELL
"""Characters of a row, or of a file that has no lines."""


def rows(
    place: Path,
    *,
    split: str,
    image: str | None = "image",
    instruction: str = "instruction",
    answer: str = "answer",
    id: str | None = None,
    separator: str | None = None,
    extras: Sequence[str] = (),
) -> Iterator[Row | DataError]:
    """A row per line of the table. The options name columns (`Columns`); both splits are read alike.

    Args:
        place: the file.
        split: not used.
        image: column of the image, None where there is none.
        instruction: column of the question or instruction.
        answer: column of the answer or answers.
        id: column of the ids; None: the numbers of the rows.
        separator: what stands between several answers in a cell; None: a cell is one answer.
        extras: further columns that the score needs.
    """
    del split
    columns = Columns(image, instruction, answer, id, separator, extras)
    embedded = EmbeddedImages() if _holds_images(place, columns) else None
    for number, record in enumerate(_records(place, columns), start=1):
        origin = f"{place}, row {number}"
        try:
            yield _row(columns, record, embedded, number=number, origin=origin)
        except DataError as problem:
            if problem.of_file:
                raise
            yield problem


def _row(
    columns: Columns, record: Mapping[str, Any], embedded: EmbeddedImages | None, *, number: int, origin: str
) -> Row:
    name = columns.image
    if name is None or is_missing(record[name]):
        return columns.row(record, number=number, origin=origin)
    if embedded:
        images = embedded.names(record[name], index=record.get("index"), origin=origin)
        return columns.row(record, number=number, origin=origin, images=images)
    if is_inside(record[name]):
        complaint = f"{origin}: the image is inside the table, which names a file before: one of the two in a table"
        raise DataError(complaint, kind="unusable image")
    if isinstance(record[name], dict):  # the hub's {bytes, path} without the bytes
        images = columns.texts({name: record[name].get("path")}, name, origin)
        return columns.row(record, number=number, origin=origin, images=images)
    return columns.row(record, number=number, origin=origin)


def files(place: Path, **_: Any) -> list[Path]:
    """The file itself."""
    return [place]


def images(place: Path, *, split: str, **options: Any) -> Path | None:
    """Where the images are that stand in the table itself; None: it names files."""
    del split
    return folder() if _holds_images(place, Columns(**options)) else None


def _holds_images(place: Path, columns: Columns) -> bool:
    """The kind of the first image of a table decides how all are read."""
    first = (record[columns.image] for record in islice(_records(place, columns), FIRST)) if columns.image else ()
    return is_inside(next((cell for cell in first if not is_missing(cell)), None))


def _records(place: Path, columns: Columns) -> Iterator[Mapping[str, Any]]:
    return _parquet(place, columns) if place.suffix.lower() == ".parquet" else _text(place, columns)


def _text(place: Path, columns: Columns) -> Iterator[Mapping[str, Any]]:
    done = 0
    try:
        with TextIOWrapper(open_regular(place), encoding="utf-8-sig", newline="") as stream:
            csv.field_size_limit(LONGEST_CELL)  # of the process: Python's own 131,072 are too few for base64
            mark = _mark(stream, place)
            lines = _Lines(stream, place, mark)
            table = csv.reader(lines, delimiter=mark, strict=True)
            names = {name: at for at, name in enumerate(next(table, [])) if name}
            if len(names) > MOST_COLUMNS:
                raise DataError(f"{place}: {len(names):,} columns; at most {MOST_COLUMNS:,} are read", kind="huge file")
            columns.check(list(names), where=place)
            done = table.line_num
            for cells in table:
                lines.marks, done = 0, table.line_num
                if cells:
                    yield _Cells(names, cells)
    except FileNotFoundError as problem:
        raise DataError(f"{place} does not exist", kind="missing file") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(
            f"{place} can't be read as UTF-8 text: {problem}{_remedy(problem)}", kind="missing file"
        ) from problem
    except csv.Error as problem:
        raise DataError(f"{place}: not a table behind line {done} ({problem})", kind="broken table") from problem


class _Cells(Mapping[str, Any]):
    """A row by the names of its columns; None for missing cells of a short row; cells after the last column are
    dropped.

    No dict is made per row: its cost would grow with the columns of the header, of which there may be 16,000.
    """

    __slots__ = ("_cells", "_names")

    def __init__(self, names: Mapping[str, int], cells: Sequence[str]) -> None:
        self._names, self._cells = names, cells

    def __getitem__(self, name: str) -> str | None:
        at = self._names[name]
        return self._cells[at] if at < len(self._cells) else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Lines:
    """The lines of a table of bounded length; `marks` counts what separates cells, and is set to 0 behind each row."""

    def __init__(self, stream: TextIO, place: Path, mark: str) -> None:
        self._stream, self._place, self._mark = stream, place, mark
        self._number = self.marks = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self._number += 1
        self.marks += line.count(self._mark)
        where = f"{self._place}: line {self._number}"
        if len(line) == LONGEST_LINE:
            complaint = f"{where} has more than {LONGEST_LINE >> 20} MiB: that is no row of a table"
            raise DataError(complaint, kind="broken table")
        if self.marks > MOST_MARKS:
            complaint = f"{where} belongs to a row of more than {MOST_MARKS:,} cells: that is none of a table"
            raise DataError(complaint, kind="broken table")
        return line


def _mark(stream: TextIO, place: Path) -> str:
    """The separator of the columns: a header with semicolons and no comma is from a spreadsheet with decimal commas."""
    if place.suffix.lower() == ".tsv":
        return "\t"
    header = stream.readline(LONGEST_CELL)
    stream.seek(0)
    return ";" if ";" in header and "," not in header else ","


def _remedy(problem: Exception) -> str:
    return "; save it as UTF-8" if isinstance(problem, UnicodeDecodeError) else ""


def _parquet(place: Path, columns: Columns) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow as _  # noqa: F401
    except ImportError as problem:
        raise UserError("Parquet needs pyarrow: pip install 'evertune[data]'") from problem
    try:
        with parquet(place) as content:
            columns.check(content.schema.names, where=place)
            labels = _labels(content.schema.metadata or {})
            words = {name: partial(_word, words=of) for name, of in labels.items()}
            yield from content.records(words)
    except FileNotFoundError as problem:
        raise DataError(f"{place} does not exist", kind="missing file") from problem
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise DataError(f"{place} can't be read as Parquet: {reason}", kind="missing file") from problem


def _labels(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The words of class labels, which a Parquet file of the hub keeps beside the numbers."""
    try:
        features = json_value(metadata[b"huggingface"])["info"]["features"]
        # For lists, the type of their items; old versions of the library write a list of one.
        inner = {n: one[0] if isinstance(one, list) else one.get("feature", one) for n, one in features.items()}
        return {name: list(one["names"]) for name, one in inner.items() if one.get("_type") == "ClassLabel"}
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        return {}


def _word(value: Any, words: Sequence[str]) -> Any:
    """The word of a class label, or those of a list of them; the hub writes -1 where there is none."""
    if isinstance(value, list):
        return [word for one in value if (word := _word(one, words)) is not None]
    if not isinstance(value, int) or value >= len(words):
        return value
    return words[value] if value >= 0 else None
