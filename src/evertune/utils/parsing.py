"""Untrusted JSON and YAML: what is too deep, too long or multiplies itself is refused before it is used.

Python's decoders raise half a dozen kinds of error on such texts, and some only much later, where a value is walked.
Here everything becomes a `ValueError` with a line of its own; each reader says file and line, and what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

DEEPEST = 64
"""Brackets inside each other. Our own files have a dozen, the field's have five."""
MOST_VALUES, CHARACTERS_PER_VALUE = 2_000_000, 10
"""Values that a JSON text may have, and one more for each so many characters; an object counts as one more. Decoded,
each takes 24 to 150 bytes: lists of empty lists take 24 to 47 times their text. Files of the field have a value for
each 11 characters or more."""
LONGEST_YAML = 1 << 20
"""Characters: PyYAML takes about ten seconds for so many."""
MOST_NODES = 100_000
"""Values of a YAML, those that an alias repeats counted each time."""

LONGEST_NUMBER = 100
"""Characters of a number in YAML: `1:10:10...`, to the base of 60, takes time by the square of its length."""
LONGEST_KEY = 18
"""Characters of a number as a key: the multiples of 2**61 - 1, which has 19, have one hash, and a dict of them takes
time by the square of their number."""
_written = re.compile(r"\S[^\n]*")


class NotFinite:
    """`NaN` or `Infinity` in a data file: no JSON; no text, number, list or null either, so that no reader takes it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


DATA_DECODER = json.JSONDecoder(parse_constant=NotFinite)


class YamlError(ValueError):
    """No YAML that is read; `line` is where, if that is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.line = line


class NestedError(ValueError):
    """Values inside each other that no file has honestly."""

    def __init__(self) -> None:
        super().__init__(f"nested more than {DEEPEST} deep")


def data_value(text: str) -> Any:
    """`json_value` of a data file: `NaN` and `Infinity`, which pandas and Python write, are `NotFinite`."""
    return json_value(text, decoder=DATA_DECODER)


def json_value(text: str | bytes, *, decoder: json.JSONDecoder | None = None) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON (then a `json.JSONDecodeError`, which knows the place), no UTF-8, nested too deeply,
            has more values than `refuse_many` allows, or a number of thousands of digits.
    """
    refuse_many(text)
    try:
        value = decoder.decode(text) if decoder and isinstance(text, str) else json.loads(text)
    except RecursionError as problem:
        raise NestedError from problem
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened > DEEPEST:
        _refuse_deep(value)
    return value


def json_at(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at a place of a data file's text, and where it ends; numbers as of `data_value`.

    The caller has `refuse_many` look at a long text: once, not for each value in it.

    Raises:
        ValueError: as `json_value`, apart from the number of values.
    """
    try:
        value, end = DATA_DECODER.raw_decode(text, at)
    except RecursionError as problem:
        raise NestedError from problem
    if text.count("[", at, end) + text.count("{", at, end) > DEEPEST:
        _refuse_deep(value)
    return value, end


def refuse_many(text: str | bytes) -> None:
    """Refuse JSON that would take far more memory than its text, before it is decoded.

    Every value follows a comma or an opened bracket. Those within texts are counted too: no text has so many.

    Raises:
        ValueError: there are more values than `MOST_VALUES` and one per `CHARACTERS_PER_VALUE`.
    """
    if len(text) <= MOST_VALUES:
        return
    # An object takes three times the memory of a list.
    values = sum(map(text.count, "[{{,")) if isinstance(text, str) else sum(map(text.count, (b"[", b"{", b"{", b",")))
    if values > (most := MOST_VALUES + len(text) // CHARACTERS_PER_VALUE):
        raise ValueError(f"{values:,} values in {len(text):,} characters; at most {most:,} are read")


def written_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number from 1 and text of each line that is not blank; never all as a list, which takes 8 times a blank file.

    Not `splitlines()`: that also breaks at signs that may stand inside a JSON text.
    """
    number, at = 1, 0
    for found in _written.finditer(text):
        number += text.count("\n", at, found.start())
        at = found.start()
        yield number, text[text.rfind("\n", 0, at) + 1 : found.end()]


def _refuse_deep(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for one in level if isinstance(one, dict | list) for inner in _inside(one)]
        if not level:
            return
    raise NestedError


def _inside(value: dict[str, Any] | list[Any]) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value
    return [one for one in inner if isinstance(one, dict | list)]


def yaml_value(text: str) -> Any:
    """The value of a YAML text, by the safe loader.

    Raises:
        YamlError: it is no YAML, or goes beyond a limit.
    """
    if len(text) > LONGEST_YAML:
        raise YamlError(f"{len(text):,} characters; at most {LONGEST_YAML:,} are read")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        message = getattr(problem, "problem", None) or str(problem)
        raise YamlError(message, mark.line + 1 if mark else None) from problem
    except Exception as problem:  # PyYAML's constructors: `2001-99-99`, `!!int x`, and other unlisted errors
        raise YamlError(f"a value that can't be read ({type(problem).__name__}: {problem})") from problem


class _Loader(yaml.SafeLoader):
    """The safe loader that also counts: an alias costs what it repeats."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes, self._depth = 0, 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One node, counted."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark, before = event.start_mark, self._nodes
        self._depth += 1
        repeats = isinstance(event, yaml.AliasEvent)
        node = super().compose_node(parent, index) if self._depth <= DEEPEST else None
        self._depth -= 1
        if node is None:
            raise yaml.composer.ComposerError(None, None, str(NestedError()), mark)
        if repeats and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias inside of what it repeats", mark)
        self._nodes += self._sizes[id(node)] if repeats else 1
        if self._nodes > MOST_NODES:
            message = f"more than {MOST_NODES:,} values, aliases counted each time"
            raise yaml.composer.ComposerError(None, None, message, mark)
        self._sizes.setdefault(id(node), self._nodes - before)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping; without whole numbers as keys that may all have the same hash."""
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)  # what it merges is a key of this one
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:int" and len(key.value) > LONGEST_KEY:
                message = f"a number of {len(key.value):,} characters as a key; at most {LONGEST_KEY} are read"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
        return super().construct_mapping(node, deep)

    def short_number(self, node: Any) -> Any:
        """A number, unless it is too long."""
        if isinstance(node.value, str) and len(node.value) > LONGEST_NUMBER:
            message = f"a number of {len(node.value):,} characters; at most {LONGEST_NUMBER} are read"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return yaml.SafeLoader.yaml_constructors[node.tag](self, node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.short_number)
