"""Converts a record of columns to a row; shared by tables and Hugging Face data sets.

Options name the columns; the prompt may contain any column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from evertune.data.formats import Row
from evertune.data.records import number_text
from evertune.utils.errors import DataError, kind_of, nearest

ALIKE = 0.7
"""Similarity from which a column counts as misspelt: 'frage' and 'image' have 0.6."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns.

    Attributes:
        image: the image's name, or a list of them; None: there are no images.
        instruction: the question; it is the field `instruction` of the prompt.
        answer: a text, a number, or a list of them whose first entry is trained on.
        id: None: the row's number.
        separator: separates several answers or images in a cell, for tables without lists.
        extras: columns that a score needs.
    """

    image: str | None = "image"
    instruction: str = "instruction"
    answer: str = "answer"
    id: str | None = None
    separator: str | None = None
    extras: Sequence[str] = ()

    def check(self, names: Sequence[str], *, where: object) -> None:
        """Refuse columns that are not there.

        Raises:
            DataError: the message has the nearest column.
        """
        for role in ("image", "instruction", "answer", "id"):
            name = getattr(self, role)
            if name is not None and name not in names:
                raise DataError(
                    f"{where} has no column '{name}'; {nearest(str(name), names, cutoff=ALIKE)} (name it: "
                    f"options: {{{role}: COLUMN}} in a stream's YAML, or --option {role}=COLUMN of evertune "
                    "data check, learn and try)",
                    kind="missing column",
                )
        for name in self.extras:
            if name not in names:
                raise DataError(f"{where} has no column '{name}'; {nearest(str(name), names)}", kind="missing column")

    def row(self, record: Mapping[str, Any], *, number: int, origin: str, images: tuple[str, ...] | None = None) -> Row:
        """The row of a record; `images` in place of those that the record names.

        Raises:
            DataError: a value is no text or list of texts.
        """
        hidden = self.image if images is not None else None
        if images is None:
            images = self.texts(record, self.image, origin) if self.image else ()
        answers = self.texts(record, self.answer, origin)
        if not answers:
            raise DataError(f"{origin}: the column '{self.answer}' is empty", kind="no answer")
        return Row(
            id=_joined(record[self.id]) if self.id else str(number),
            images=images,
            fields=_Fields(record, self.instruction, hidden),
            answers=answers,
            origin=origin,
            extras={name: _joined(record[name]) for name in self.extras},
        )

    def texts(self, record: Mapping[str, Any], name: str, origin: str) -> tuple[str, ...]:
        """The texts of a cell: one, those between separators, or those of a list.

        Raises:
            DataError: it holds something else.
        """
        value = record[name]
        if is_missing(value):
            return ()
        if isinstance(value, str):
            parts = value.split(self.separator) if self.separator else [value]
            return tuple(part.strip() for part in parts if part.strip())
        if isinstance(value, list | tuple):
            if all(_is_plain(part) for part in value):
                return tuple(_text(part) for part in value)
        elif _is_plain(value):
            return (_text(value),)
        raise DataError(
            f"{origin}: the column '{name}' holds neither a text nor a list of texts, but {kind_of(value)}",
            kind=f"unusable {name}",
        )


class _Fields(Mapping[str, str]):
    """The fields of a prompt: `instruction` and every column, converted to text on access.

    The column `hidden`, which holds the image data, is empty.
    """

    def __init__(self, record: Mapping[str, Any], instruction: str, hidden: str | None) -> None:
        self._record, self._instruction, self._hidden = record, instruction, hidden

    def __getitem__(self, name: str) -> str:
        if name == self._hidden:
            return ""
        return _joined(self._record[self._instruction if name == "instruction" else name])

    def __contains__(self, name: object) -> bool:
        return name == "instruction" or name in self._record

    def __iter__(self) -> Iterator[str]:
        return iter(self._record if "instruction" in self._record else ("instruction", *self._record))

    def __len__(self) -> int:
        return len(self._record) + ("instruction" not in self._record)


def _joined(value: Any) -> str:
    """A value as text for a prompt: a list's parts separated by commas; empty for a missing value."""
    if isinstance(value, bytes | dict):
        return ""
    return ", ".join(_text(part) for part in value) if isinstance(value, list | tuple) else _text(value)


def _text(value: Any) -> str:
    """A cell, or a part of one, as text: empty for a missing value, and `3` for the 3.0 of a column with gaps."""
    if is_missing(value):
        return ""
    return number_text(value) if isinstance(value, float) else str(value).strip()


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing; NaN is how pandas writes it."""
    return value is None or (isinstance(value, float) and not isfinite(value))


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not is_missing(value)
