"""One object of a published file with its position: every look-up is type-checked, and every error names the position.

The formats read dozens of keys from files that they did not write; without this each of them would check types anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from evertune.data.formats import Row
from evertune.data.json_lists import items, lines, members
from evertune.utils.errors import DataError, UserError, unknown

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Record:
    """An object of a file; `origin` is its file and number, `key` its number in a list or its id in an object."""

    value: dict[str, Any]
    origin: str
    key: str = ""

    def has(self, key: str) -> bool:
        """Whether there is a value other than null."""
        return self.value.get(key) is not None

    def text(self, key: str, *, blank: bool = False) -> str:
        """A text without white space at its ends; empty only where `blank` says so."""
        return self._checked(self._found(key), key, blank=blank)

    def name(self, key: str) -> str:
        """An id: a text or a whole number."""
        value = self._found(key)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self._checked(value, key)

    def number(self, key: str) -> int:
        """A whole number."""
        value = self._found(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(key, "a whole number")
        return value

    def texts(self, key: str, *, blank: bool = False) -> tuple[str, ...]:
        """A list of at least one text."""
        return tuple(self._checked(value, key, blank=blank) for value in self._listed(key))

    def entries(self, key: str) -> tuple[Record, ...]:
        """A list of at least one object."""
        return tuple(
            entry_of(value, f"{self.origin}, '{key}' {number}")
            for number, value in enumerate(self._listed(key), start=1)
        )

    def wrong(self, key: str, wanted: str) -> DataError:
        """The error for a value of another kind than `wanted`."""
        return DataError(f"{self.origin}: '{key}' must be {wanted}, not {shown(self.value.get(key))}")

    def _found(self, key: str) -> Any:
        if key not in self.value:
            raise DataError(f"{self.origin}: the key '{key}' is missing")
        return self.value[key]

    def _listed(self, key: str) -> list[Any]:
        value = self._found(key)
        if not isinstance(value, list) or not value:
            raise self.wrong(key, "a list that is not empty")
        return value

    def _checked(self, value: Any, key: str, *, blank: bool = False) -> str:
        if not isinstance(value, str) or not (blank or value.strip()):
            raise self.wrong(key, "a text" if blank else "a text that is not empty")
        try:
            value.isascii() or value.encode()
        except UnicodeEncodeError as problem:
            raise self.wrong(key, "text; half of a surrogate pair is none") from problem
        return value.strip()


def number_text(value: float) -> str:
    """A number as people write it: `3` for the 3.0 that a table makes of a 3 beside a missing value."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def entry_of(value: Any, origin: str, *, key: str = "") -> Record:
    """`value` as an entry.

    Raises:
        DataError: it is no object.
    """
    if not isinstance(value, dict):
        raise DataError(f"{origin} must be an object, not {shown(value)}")
    return Record(value, origin, key)


def entries(path: Path, *, under: str | None = None) -> Iterator[Record | DataError]:
    """The objects of the list in `path`, one after another (`json_lists.items`); an error for what is no object."""
    for number, value in items(path, under=under):
        yield _tried(value, f"{path}, row {number}", key=str(number))


def entries_by_id(path: Path) -> Iterator[Record | DataError]:
    """The members of the object in `path`, one after another (`json_lists.members`); their ids are the keys."""
    for number, name, value in members(path):
        try:
            Record({"id": name}, f"{path}, row {number}").text("id")
        except DataError as problem:
            yield problem
        else:
            yield _tried(value, f"{path}, row {number} ('{name}')", key=name)


def entries_by_line(path: Path) -> Iterator[Record | DataError]:
    """The objects of a JSONL file, one after another (`json_lists.lines`)."""
    for number, value in lines(path):
        yield _tried(value, f"{path}:{number}", key=str(number))


def _tried(value: Any, origin: str, *, key: str) -> Record | DataError:
    try:
        return entry_of(value, origin, key=key)
    except DataError as problem:
        return problem


def sound(found: Iterable[Found | DataError]) -> Iterator[Found]:
    """All records of a file that must have no errors.

    Raises:
        DataError: something can't be used.
    """
    for one in found:
        if isinstance(one, DataError):
            raise one
        yield one


def rows_from(found: Iterable[Found | DataError], make: Callable[[Found], Iterable[Row]]) -> Iterator[Row | DataError]:
    """The rows that `make` makes of records; errors are passed on in their place."""
    for one in found:
        if isinstance(one, DataError):
            yield one
            continue
        try:
            made = list(make(one))  # all rows of a record or none
        except DataError as problem:
            yield problem
        else:
            yield from made


def file_of(place: Path, *names: str) -> Path:
    """The first of `names` below `place` that exists: publishers and their mirrors lay the same files out differently.

    Raises:
        DataError: none does; the message says where they were looked for.
    """
    found = next((place / name for name in names if (place / name).is_file()), None)
    if found is None:
        raise DataError(f"{place} has no file {' or '.join(names)}; docs/datasets.md says where it is from")
    return found


def one_of(value: str, known: Sequence[str], *, kind: str) -> str:
    """`value`, when it is known.

    Raises:
        UserError: it is not; the message has the nearest.
    """
    if not isinstance(value, str):
        raise UserError(f"{kind} must be a text, not {shown(value)}")
    if value not in known:
        raise unknown(kind, value, known)
    return value


def shown(value: Any) -> str:
    """A value in an error, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
