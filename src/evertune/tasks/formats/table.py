"""A table by the names of its columns: CSV, TSV, or Parquet (extra `data`).

{name: birds, format: table, data: birds.csv, options: {image: file, instruction: question, answer: label}}
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evertune.errors import DataError, UserError
from evertune.tasks.columns import Columns
from evertune.tasks.formats import Row

ABOUT = {
    "title": "a table by the names of its columns: CSV, TSV, Parquet",
    "source": "you",
    "files": "a .csv, .tsv or .parquet file with a header; options: image, instruction, answer, id (names of columns), "
    "separator (between several answers in one cell), extras (columns for the score); every column may stand in the "
    "prompt",
    "licence": "yours",
    "citation": "none",
}
PROMPT = "{instruction}"
AT_ONCE = 1024


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
    """A row per line of the table. The options name columns (`Columns`); both splits are read alike."""
    del split
    columns = Columns(image, instruction, answer, id, separator, extras)
    records = _parquet(place, columns) if place.suffix == ".parquet" else _text(place, columns)
    for number, record in enumerate(records, start=1):
        try:
            yield columns.row(record, number=number, origin=f"{place}, row {number}")
        except DataError as problem:
            yield problem


def files(place: Path, **_: Any) -> list[Path]:
    """The file itself."""
    return [place]


def _text(place: Path, columns: Columns) -> Iterator[Mapping[str, Any]]:
    try:
        with place.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, delimiter="\t" if place.suffix == ".tsv" else ",", restkey="", strict=True)
            columns.check(list(table.fieldnames or []), where=place)
            for record in table:
                record.pop("", None)  # what stands behind the last column
                yield record
    except FileNotFoundError as problem:
        raise DataError(f"{place} does not exist", kind="missing file") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{place} can't be read as UTF-8 text: {problem}", kind="missing file") from problem
    except csv.Error as problem:
        raise DataError(
            f"{place}: not a table behind line {table.line_num} ({problem})", kind="broken table"
        ) from problem


def _parquet(place: Path, columns: Columns) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as problem:
        raise UserError("Parquet needs pyarrow: pip install 'evertune[data]'") from problem
    try:
        with ParquetFile(place) as table:
            columns.check(table.schema_arrow.names, where=place)
            for batch in table.iter_batches(batch_size=AT_ONCE):
                yield from batch.to_pylist()
    except FileNotFoundError as problem:
        raise DataError(f"{place} does not exist", kind="missing file") from problem
    except UserError:
        raise
    # Texts that are no UTF-8, times beyond the calendar: values are made Python's own only here.
    except (OSError, ArrowException, ValueError, TypeError, KeyError, OverflowError) as problem:
        raise DataError(f"{place} can't be read as Parquet: {problem}", kind="missing file") from problem
