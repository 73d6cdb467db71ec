"""Makes `metrics.jsonl` consistent with the stages of a folder: no extra point, none missing.

Points of an interrupted or rolled back stage are removed. The steps of a finished stage are also in its own log
(`stages/*/training.jsonl`); missing points, for example after a full disk, are taken from there.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

from evertune.runs.tracking.jsonl import FILE, read_points, write_points
from evertune.runs.tracking.protocol import Point
from evertune.training.stages import Stage, saved_stages, stage_folder
from evertune.utils.errors import RunFolderError
from evertune.utils.files import read_text
from evertune.utils.parsing import json_value, written_lines

LOSS = "train/loss"


def settled(folder: Path) -> list[Point]:
    """The points of a folder's finished stages, in order; the file is rewritten if it has others."""
    path, stages = folder / FILE, saved_stages(folder)
    ends = list(accumulate((stage.steps for stage in stages), initial=0))
    before = read_points(path)
    kept = [point for point in before if point.step <= ends[-1]]
    there = {point.step for point in kept if LOSS in point.values}
    logged = [p for stage, start in zip(stages, ends, strict=False) for p in points_of(folder, stage, start)]
    points = kept + [point for point in logged if point.step not in there]
    points.sort(key=lambda point: (point.step, point.after is not None))
    if points != before or _is_torn(path):
        write_points(path, points)
    return points


def points_of(folder: Path, stage: Stage, start: int) -> list[Point]:
    """The steps of a finished stage that began after `start` steps, from its own log, which has no speeds."""
    path = stage_folder(folder, stage.number, stage.task) / "training.jsonl"
    if not path.exists():
        return []
    rows = _steps(path)
    return [
        Point(
            start + row["step"],
            {f"train/{name}": value for name, value in row.items() if name != "step"},
            time=path.stat().st_mtime,
        )
        for row in rows
    ]


def _steps(path: Path) -> list[dict[str, Any]]:
    """The rows of a stage's log.

    Raises:
        RunFolderError: one is damaged.
    """
    rows = []
    for number, line in written_lines(read_text(path)):
        try:
            row = json_value(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise RunFolderError(f"{path}:{number} is damaged: see evertune doctor {path.parent.parent.parent}")
        rows.append(row)
    return rows


def _is_torn(path: Path) -> bool:
    """Whether the last line is incomplete, so that the next one would be appended to it."""
    content = path.read_bytes() if path.exists() else b""
    return bool(content) and not content.endswith(b"\n")
