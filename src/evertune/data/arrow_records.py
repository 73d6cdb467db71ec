"""Rows of Arrow batches, whose columns become Python values on access, and only within bounds.

Arrow keeps a truth value in a bit and a null in nothing; Python takes 8 to 64 bytes for each. So values are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from evertune.utils.errors import DataError
from evertune.utils.parsing import MOST_VALUES

VALUE = 64
"""Bytes that a value takes in Python, beside those of its text."""
PIECE = 64 << 20
"""Bytes of values that are made together."""
Convert = Callable[[Any], Any]


def arrow_records(
    batches: Iterable[Any], *, place: object, most: int | None, convert: Mapping[str, Convert] | None = None
) -> Iterator[Mapping[str, Any]]:
    """A record for each row of batches (or tables), whose values are made when they are looked at.

    Args:
        batches: `pyarrow.RecordBatch` or `pyarrow.Table`.
        place: the file, for messages.
        most: bytes that all of them may take, with `VALUE` for each value that is looked at; None: no limit.
        convert: by column, what is made of a cell's value.

    Raises:
        DataError: they take more. Where a record is looked at, that too, or a cell has more than `MOST_VALUES` values
            or one that Python can't hold.
    """
    left = _Left(place, most)
    row = 1
    for batch in batches:
        left.take(batch.nbytes)
        columns = _Columns(batch, left, convert or {}, first=row)
        row += batch.num_rows
        for at in range(batch.num_rows):
            yield _Record(columns, at)


class _Record(Mapping[str, Any]):
    __slots__ = ("_at", "_columns")

    def __init__(self, columns: _Columns, at: int) -> None:
        self._columns, self._at = columns, at

    def __getitem__(self, name: str) -> Any:
        return self._columns.value(name, self._at)

    def __contains__(self, name: object) -> bool:
        return name in self._columns.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __len__(self) -> int:
        return len(self._columns.names)


class _Left:
    """How many bytes may still be made of a file."""

    def __init__(self, place: object, most: int | None) -> None:
        self.place, self._most, self._taken = place, most, 0

    def take(self, size: int) -> None:
        self._taken += size
        if self._most is not None and self._taken > self._most:
            complaint = f"{self.place} unpacks to more than {self._most >> 20:,} MiB, the most for a file of its size"
            raise DataError(f"{complaint}: write it as several files, or as JSON Lines", kind="huge file")


class _Columns:
    """The columns of a batch, and the values of those that were looked at."""

    def __init__(self, batch: Any, left: _Left, convert: Mapping[str, Convert], *, first: int) -> None:
        self.names = {name: place for place, name in enumerate(batch.schema.names)}
        self._batch, self._left, self._convert, self._first = batch, left, convert, first
        self._made: dict[str, list[Any]] = {}

    def value(self, name: str, at: int) -> Any:
        if name in self._made:
            return self._made[name][at]
        column = self._batch.column(self.names[name])
        whole = VALUE * values_in(column) + column.nbytes <= PIECE
        part = column if whole else column.slice(at, 1)
        if (count := values_in(part)) > MOST_VALUES:
            where = f"{self._left.place}, row {self._first + (0 if whole else at)}, column '{name}'"
            raise DataError(f"{where}: {count:,} values; at most {MOST_VALUES:,} are read", kind="huge text")
        self._left.take(VALUE * count)
        try:
            values = part.to_pylist()
        # Texts that are no UTF-8, times beyond the calendar
        except (ValueError, TypeError, KeyError, OverflowError) as problem:
            reason = f"the column '{name}' can't be read: {problem}"
            raise DataError(f"{self._left.place}: {reason}", kind="missing file") from problem
        if convert := self._convert.get(name):
            values = [convert(value) for value in values]
        if not whole:
            return values[0]
        self._made[name] = values
        return values[at]


def values_in(column: Any) -> int:
    """How many values Python would make of an Arrow column, those inside of others included."""
    from pyarrow import types

    kind = column.type
    if hasattr(column, "chunks"):
        return sum(map(values_in, column.chunks))
    if hasattr(column, "storage"):  # an extension type, as `datasets` has them
        return values_in(column.storage)
    if types.is_struct(kind):
        return len(column) + sum(values_in(column.field(place)) for place in range(kind.num_fields))
    if types.is_fixed_size_list(kind):
        return len(column) + values_in(column.flatten())
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        ends = column.offsets
        start = ends[0].as_py()
        return len(column) + values_in(column.values.slice(start, ends[-1].as_py() - start))
    return len(column)
