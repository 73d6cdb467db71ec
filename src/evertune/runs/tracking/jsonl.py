"""`metrics.jsonl`: every point of a run, one JSON object per line; at resume other trackers get missing points from it.

{"step": 12, "time": 1795392000.0, "train/loss": 1.25, "train/learning_rate": 0.001, ...}
{"step": 40, "time": 1795392031.5, "after": "counting", "score/counting": 62.5, "stream/average": 62.5, ...}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

from evertune.runs.tracking.protocol import Point, RunInfo
from evertune.utils.errors import UserError
from evertune.utils.files import opened, read_text, write_jsonl
from evertune.utils.parsing import json_value, written_lines

FILE = "metrics.jsonl"
OUR_KEYS = ("step", "time", "after")


class Jsonl:
    """Appends points; each line is flushed to the system when `log` returns, so that a kill loses none."""

    package: ClassVar[str | None] = None
    waits: ClassVar[bool] = False

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def begin(self, run: RunInfo) -> Mapping[str, int]:
        """Existing points stay."""
        path = run.folder / FILE
        there = {name: point.step for point in read_points(path) for name in point.values}
        try:
            self._file = os.fdopen(opened(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8")
        except OSError as problem:
            raise UserError(f"cannot write {path}: {problem.strerror}") from problem
        return there

    def log(self, point: Point) -> None:
        """One line."""
        assert self._file is not None
        self._file.write(json.dumps(row_of(point), ensure_ascii=False) + "\n")
        self._file.flush()

    def end(self, *, finished: bool) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def row_of(point: Point) -> dict[str, Any]:
    """A point as a row of the file."""
    after = {"after": point.after} if point.after is not None else {}
    return {"step": point.step, "time": round(point.time, 3), **after, **point.values}


def read_points(path: Path) -> list[Point]:
    """The points of a file in order; an incomplete last line is ignored."""
    text = read_text(path, errors="replace") if path.exists() else ""
    return [point for _, line in written_lines(text) if (point := _point(line)) is not None]


def _point(line: str) -> Point | None:
    try:
        row = json_value(line)
        values = {name: value for name, value in row.items() if name not in OUR_KEYS}
        numbers = all(type(value) in (int, float) for value in (row["time"], *values.values()))
        sound = numbers and type(row["step"]) is int and isinstance(row.get("after"), str | None)
        return Point(row["step"], values, row["time"], row.get("after")) if sound else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_points(path: Path, points: Iterable[Point]) -> None:
    """Replace the file as a whole."""
    write_jsonl(path, map(row_of, points))
