"""A matrix as a table of text: what is a header, what an index column, what a blank. For `matrix_files`.

Tables come from pandas, numpy, spreadsheets and papers. A row or column of names or of plain counting numbers is no
score; what was decided by that is a note, so that nothing is dropped in silence.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from evertune.utils.errors import UserError

Rows = list[list[float | None]]

BLANKS = {"", "-", "–", "—", "na", "n/a", "nan", "none", "null", "<na>"}
INDEX_NAMES = {"", "#", "after", "epoch", "id", "index", "iteration", "round", "row", "session", "stage", "step"}
INDEX_NAMES |= {"t", "task", "time", "unnamed: 0"}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)
SUMMARY = re.compile(
    r"(avg|average|mean|overall|sum|total)\.?( (acc|accuracy|score)\.?)?|acc\.?|bwt|fwt|forgetting|std\.?|maa|mfn|mft",
    re.IGNORECASE,
)
"""Names of columns and rows that are made of scores: an average is no task, and no stage."""
DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d+)", re.ASCII)
LONGEST_CELL, MOST_CELLS = 1000, 1_000_000
"""Characters of a cell, and what separates cells: a name or a score, and those of a thousand tasks."""


@dataclass(frozen=True, slots=True)
class Table:
    """Scores with the names around them.

    Attributes:
        rows: None is a blank cell; rows may differ in length.
        labels: the name of each row, where the index column has names; else empty.
        columns: the names in the header; else empty.
        notes: what was taken for a header or an index though it could be scores.
    """

    rows: Rows
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...]


def parsed(cell: str) -> float | None:
    """The number in a cell, `80%` being 80; None for a blank one.

    Raises:
        ValueError: it is neither.
    """
    text = cell.strip().replace("−", "-")
    if text.casefold() in BLANKS:
        return None
    text = text.removesuffix("%").rstrip()
    if not NUMBER.fullmatch(text):
        raise ValueError(f"'{cell}' is not a number")
    return float(text)


def read_table(text: str, path: Path, *, known: int) -> Table:
    """Read comma-, semicolon-, tab- or space-separated text.

    Raises:
        UserError: a cell is no number or too long, there is none at all, or too many; the message names file and line.
    """
    lines = _without_titles(_lines(text, path))
    header, notes = _header([cells for _, cells in lines])
    if header is not None:
        lines = lines[1:]
    header, lines, left_out = _without_summaries(header, lines)
    notes += left_out
    header, lines = _without_blank_ends(header, lines)
    body = [cells for _, cells in lines]
    index = _has_index(header, body, known=known)
    if index and not _is_certain(header, body):
        numbers = ", ".join(row[0] for row in body[:3])
        notes.append(f"the first column ({numbers}, ...) is taken for row numbers, not for scores")
    named = index and any(_is_name(row[0]) for row in body)
    rows = [_scores(cells[index:], f"{path}:{line}") for line, cells in lines]
    if not any(value is not None for row in rows for value in row):
        raise UserError(f"{path} has no rows of numbers")
    width = max(map(len, body))
    columns = () if header is None else tuple(header[index and len(header) >= width :])
    if header is not None and (empty := [name for name in header[width:] if name]):
        notes.append(f"the header has no scores below {', '.join(empty)}")
    return Table(rows, tuple(row[0] for row in body) if named else (), columns, tuple(notes))


def _lines(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of each line that has any.

    Raises:
        UserError: there are too many cells, one is too long, or a quote is not closed.
    """
    separator = next((sign for sign in "\t;," if sign in text), None)
    if text.count(separator or " ") > MOST_CELLS:
        raise UserError(f"{path}: more than {MOST_CELLS:,} cells: that is no matrix of scores")
    lines = []
    try:
        for number, row in _rows(text, separator):
            cells = [cell.strip() for cell in row]
            if longest := next((cell for cell in cells if len(cell) > LONGEST_CELL), None):
                raise UserError(f"{path}:{number}: a cell of {len(longest):,} characters; at most {LONGEST_CELL:,}")
            if separator in (";", "\t"):
                cells = [DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in cells]
            if any(cells):
                lines.append((number, cells))
    except csv.Error as problem:
        raise UserError(f"{path}: not a table behind line {lines[-1][0] if lines else 0} ({problem})") from problem
    return lines


def _rows(text: str, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    if separator is None:
        yield from ((number, line.split()) for number, line in enumerate(io.StringIO(text, newline=None), start=1))
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        yield from ((reader.line_num, row) for row in reader)


def _without_titles(lines: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """The lines below comments and titles: a single text above rows of more cells than an index and a score."""
    widths = list(accumulate((len(cells) for _, cells in reversed(lines)), max))[::-1]  # from each line on
    for first, (_, cells) in enumerate(lines[:-1]):
        comment = cells[0].startswith("#") and len(cells[0]) > 1
        if len([cell for cell in cells if cell]) != 1 or not _is_name(cells[0]) or (widths[first] < 3 and not comment):
            return lines[first:]
    return lines[-1:]


def _without_summaries(
    header: list[str] | None, lines: list[tuple[int, list[str]]]
) -> tuple[list[str] | None, list[tuple[int, list[str]]], list[str]]:
    """The table without averages and the like, which stand at its edges."""
    named = {name for name in (*(header or ()), *(cells[0] for _, cells in lines)) if SUMMARY.fullmatch(name)}
    if not named:
        return header, lines, []
    kept = [(number, cells) for number, cells in lines if cells[0] not in named]
    if header is not None:
        longer = max((len(cells) for _, cells in kept), default=0) - len(header)  # the index has no name
        places = {place + max(longer, 0) for place, name in enumerate(header) if name in named}
        kept = [(number, [c for place, c in enumerate(cells) if place not in places]) for number, cells in kept]
        header = [name for name in header if name not in named]
    return header, kept, [f"left out, no task and no stage: {', '.join(sorted(named))}; if it is one, rename it"]


def _without_blank_ends(
    header: list[str] | None, lines: list[tuple[int, list[str]]]
) -> tuple[list[str] | None, list[tuple[int, list[str]]]]:
    """The table without columns at its end that have no name and no score: separators that end a line."""
    width = max((place for _, cells in lines for place, cell in enumerate(cells, start=1) if cell), default=0)
    if header is not None:
        width = max([width, *(place for place, name in enumerate(header, start=1) if name)])
        header = header[:width]
    return header, [(number, cells[:width]) for number, cells in lines]


def _header(lines: Sequence[Sequence[str]]) -> tuple[list[str] | None, list[str]]:
    """The first line when it has no scores: names only, or columns that are counted through, as pandas does."""
    if not lines:
        return None, []
    first = list(lines[0])
    if not any(_is_number(cell) for cell in first) and any(_is_name(cell) for cell in first):
        return first, []
    if not _is_number(first[0]) and _counts(first[1:]):
        return first, []
    if _counts(first):
        note = (
            f"the first line ({', '.join(first)}) is taken for a header; if it holds scores, write them as "
            f"{float(first[0])}, {float(first[1])}, ..."
        )
        return first, [note]
    return None, []


def _has_index(header: Sequence[str] | None, body: Sequence[Sequence[str]], *, known: int) -> bool:
    """Whether the first column is no task."""
    if not body or min(map(len, body)) < 2:
        return bool(header and body and len(header) > 1 and header[0].casefold() in INDEX_NAMES)
    if _is_certain(header, body):
        return True
    if not _counts([row[0] for row in body]):
        return False
    new, stages = max(map(len, body)) - known, len(body)
    with_index, without = stages in (new - 1, new), stages in (new, new + 1)
    return with_index and (len(body) > 2 or not without)


def _is_certain(header: Sequence[str] | None, body: Sequence[Sequence[str]]) -> bool:
    """An index by its name, by names in it, or because the header has no name for it."""
    if header is not None:
        name = header[0].casefold()
        unnamed = all(len(row) == len(header) + 1 for row in body) and _counts([row[0] for row in body])
        if unnamed or name in INDEX_NAMES or name.removesuffix("s") in INDEX_NAMES:
            return True
    return all(_is_name(row[0]) or not row[0] for row in body) and any(row[0] for row in body)


def _scores(cells: Sequence[str], where: str) -> list[float | None]:
    try:
        return [parsed(cell) for cell in cells]
    except ValueError as problem:
        raise UserError(f"{where}: {problem}") from problem


def _is_number(cell: str) -> bool:
    try:
        return parsed(cell) is not None
    except ValueError:
        return False


def _is_name(cell: str) -> bool:
    try:
        parsed(cell)
    except ValueError:
        return True
    return False


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells are 0, 1, 2, ... or 1, 2, 3, ..., two at least."""
    return len(cells) > 1 and list(cells) in [[str(first + place) for place in range(len(cells))] for first in (0, 1)]
