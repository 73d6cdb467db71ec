"""One object of a published file and where it stands, so that every look-up is checked and every complaint names it.

The formats read dozens of keys from files that they did not write; without this each of them would check types anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.errors import DataError, UserError, unknown
from evertune.tasks.json_lists import items, members


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of a file; `origin` is its file and number."""

    value: dict[str, Any]
    origin: str

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

    def entries(self, key: str) -> tuple[Entry, ...]:
        """A list of at least one object."""
        return tuple(
            entry_of(value, f"{self.origin}, '{key}' {number}")
            for number, value in enumerate(self._listed(key), start=1)
        )

    def wrong(self, key: str, wanted: str) -> DataError:
        """The error for a value of another kind than `wanted`."""
        return DataError(f"{self.origin}: '{key}' must be {wanted}, not {_shown(self.value.get(key))}")

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
            value.encode()
        except UnicodeEncodeError as problem:
            raise self.wrong(key, "text; half of a surrogate pair is none") from problem
        return value.strip()


def entry_of(value: Any, origin: str) -> Entry:
    """`value` as an entry.

    Raises:
        DataError: it is no object.
    """
    if not isinstance(value, dict):
        raise DataError(f"{origin} must be an object, not {_shown(value)}")
    return Entry(value, origin)


def entries(path: Path, *, under: str | None = None) -> Iterator[Entry]:
    """The objects of the list in `path`, one after another (`json_lists.items`)."""
    return (entry_of(value, f"{path}, row {number}") for number, value in items(path, under=under))


def entries_by_id(path: Path) -> Iterator[tuple[str, Entry]]:
    """Id and object of each member of the object in `path`, one after another (`json_lists.members`)."""
    for number, name, value in members(path):
        Entry({"id": name}, f"{path}, row {number}").text("id")
        yield name, entry_of(value, f"{path}, row {number} ('{name}')")


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
        raise UserError(f"{kind} must be a text, not {_shown(value)}")
    if value not in known:
        raise unknown(kind, value, known)
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
