"""Read large JSON files item by item: a list, a list under a key, the members of an object, or one object a line.

Published files are single JSON values of up to a gigabyte, and `json.load` needs several times as much memory. Here one
item is decoded at a time, so memory holds one item and a part of the text. Errors name line and column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from evertune.utils.errors import DataError
from evertune.utils.parsing import json_at, refuse_many
from evertune.utils.regular_files import open_regular

PIECE = 1 << 20
"""Characters that are read at a time."""
CUT = 16
"""An error this near to the end of the buffer may come from a value that is cut off there; the longest literal has
nine letters."""
LONGEST_ITEM = 16 << 20
"""Characters of one value: more is no row, but a file that was joined wrongly."""
SPACE = " \t\r\n"


def items(path: Path, *, under: str | None = None) -> Iterator[tuple[int, Any]]:
    """Each item of the list in `path`, with its number from 1.

    Args:
        path: a JSON file in UTF-8.
        under: the file is an object, and the list is the value of this key; None: the file is the list.

    Raises:
        DataError: no such file, no such list, or not JSON (the message has line and column).
    """
    with _opened(path) as text:
        if under is None:
            yield from _list(text)
        else:
            yield from _list_under(text, under)
        text.finish()


def members(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Number from 1, key and value of each member of the object in `path`; a key that stands twice comes twice.

    Raises:
        DataError: no such file, no object, or not JSON (the message has line and column).
    """
    with _opened(path) as text:
        for number, key in enumerate(_keys(text), start=1):
            yield number, key, text.value()
        text.finish()


def lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line's value of a JSONL file, with the number of the line; empty lines are left out.

    Raises:
        DataError: no such file, or a line is not JSON (the message has line and column).
    """
    with _opened(path) as text:
        while text.peek():
            number = text.line
            yield number, text.value()


def opening(path: Path) -> Iterator[tuple[str, str, int]]:
    """Key, first character of the value and line of each member of the object that `path` begins with.

    Raises:
        DataError: as `members`.
    """
    with _opened(path) as text:
        for key in _keys(text):
            yield key, text.peek(), text.line
            _pass_over(text)


@contextmanager
def _opened(path: Path) -> Iterator[_Text]:
    try:
        with TextIOWrapper(open_regular(path), encoding="utf-8-sig") as file:
            yield _Text(file, path)
    except FileNotFoundError as problem:
        raise DataError(f"{path} does not exist") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path} can't be read as UTF-8 text: {problem}") from problem


def _list(text: _Text) -> Iterator[tuple[int, Any]]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    number, mark = 0, ","
    while mark == ",":
        number += 1
        yield number, text.value()
        mark = text.take(",]")


def _list_under(text: _Text, under: str) -> Iterator[tuple[int, Any]]:
    found = False
    for key in _keys(text):
        if key == under and not found:
            found = True
            yield from _list(text)
        else:
            _pass_over(text)
    if not found:
        raise DataError(f"{text.path} has no list '{under}'; is it the file that its name says?")


def _pass_over(text: _Text) -> None:
    """Step over a value of any length; a list or an object inner value by inner value."""
    mark = text.peek()
    inner = _list(text) if mark == "[" else (text.value() for _ in _keys(text)) if mark == "{" else iter([text.value()])
    for _ in inner:
        pass


def _keys(text: _Text) -> Iterator[str]:
    """The keys of an object, one after another; the caller reads the value of each before the next."""
    text.take("{")
    if text.peek() == "}":
        text.take("}")
        return
    mark = ","
    while mark == ",":
        if text.peek() != '"':
            raise text.broken("a key in double quotes is needed")
        key = text.value()
        text.take(":")
        yield key
        mark = text.take(",}")


class _Text:
    """The unread part of the buffer, and its position in the file."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.path = path
        self._file = file
        self._text, self._at, self._ended = "", 0, False
        self._lines, self._column = 0, 0  # of the beginning of `_text`

    @property
    def line(self) -> int:
        """Line of what comes next, from 1."""
        return self._lines + self._text.count("\n", 0, self._at) + 1

    def peek(self) -> str:
        """The next character that is not white space, or nothing at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read()

    def take(self, marks: str) -> str:
        """Step over the next character, which must be one of `marks`."""
        mark = self.peek()
        if not mark or mark not in marks:
            raise self.broken(f"{' or '.join(marks)} is needed")
        self._at += 1
        return mark

    def value(self) -> Any:
        """Decode the value that comes next; past `LONGEST_ITEM` characters it is not read on."""
        self.peek()
        while True:
            too_long = len(self._text) - self._at > LONGEST_ITEM
            try:
                value, end = json_at(self._text, self._at)
            except json.JSONDecodeError as problem:
                if too_long or not self._may_be_cut_off(problem):
                    raise self.broken(problem.msg, at=problem.pos) from problem
            except ValueError as problem:  # brackets or values without end, numbers of thousands of digits
                raise self.broken(str(problem)) from problem
            else:
                if too_long or self._ended or not self._may_go_on(end):
                    self._at = end
                    return value
            self._read()

    def finish(self) -> None:
        """Nothing may follow."""
        if self.peek():
            raise self.broken("something follows after the end")

    def broken(self, message: str, *, at: int | None = None) -> DataError:
        """The error for a mistake at this place of what was read; default: what comes next."""
        before = self._text[: self._at if at is None else at]
        newline = before.rfind("\n")
        column = len(before) - newline if newline >= 0 else self._column + len(before) + 1
        return DataError(
            f"{self.path}:{self._lines + before.count(chr(10)) + 1}: not valid JSON (column {column}: {message})"
        )

    def _may_be_cut_off(self, problem: json.JSONDecodeError) -> bool:
        near_the_end = problem.pos >= len(self._text) - CUT or problem.msg.startswith("Unterminated string")
        return near_the_end and not self._ended

    def _may_go_on(self, end: int) -> bool:
        """Whether a number that ends here is cut off: `12` of `123`, or the `12` of `12.` and `12e-`."""
        return end >= len(self._text) - CUT and self._text[end : end + 1] in ("", ".", "e", "E")

    def _read(self) -> None:
        """Drop the used part of the buffer and read more: larger amounts each time, so that a long value is not
        rescanned often."""
        used = self._text[: self._at]
        newline = used.rfind("\n")
        self._lines += used.count("\n")
        self._column = len(used) - newline - 1 if newline >= 0 else self._column + len(used)
        rest = self._text[self._at :]
        piece = self._file.read(max(PIECE, len(rest)))
        self._text, self._at, self._ended = rest + piece, 0, not piece
        try:
            refuse_many(self._text)  # here, and so once for all values in it
        except ValueError as problem:
            raise self.broken(str(problem)) from problem
