"""TensorBoard event files in `RUN/tensorboard/`: curves, and the matrix as an image after each stage.

Written with tensorboardX (0.7 MB; it needs neither TensorFlow nor TensorBoard). The file is made anew from the whole
history each time a run begins, so that a kill leaves neither gaps nor duplicates. tensorboardX's own thread is not
used: a full disk, or a clock that is set back by a month, ends it, and then waiting for it never returns.

    tensorboard --logdir runs/
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from evertune.runs.tracking.protocol import Point, RunInfo
from evertune.utils.files import make_folder

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

FOLDER = "tensorboard"
SCORE = "score/"


class TensorBoard:
    """Scalars by their names, and the image `matrix`."""

    package: ClassVar[str | None] = None
    waits: ClassVar[bool] = False

    def __init__(self) -> None:
        self._writer: EventsWriter | None = None
        self._rows: dict[int, tuple[str, dict[str, float]]] = {}

    def begin(self, run: RunInfo) -> Mapping[str, int]:
        """A new file, which also makes a running TensorBoard drop the points of the old one."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        make_folder(run.folder / FOLDER)
        for old in (run.folder / FOLDER).glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventsWriter(str(run.folder / FOLDER / "events"))
        self._write(Point(0, {}, time.time()), session_log=SessionLog(status=SessionLog.START))
        return {}

    def log(self, point: Point) -> None:
        """Scalars, and for a row of R an image of the matrix so far."""
        from tensorboardX.summary import scalar

        assert self._writer is not None
        for name, value in point.values.items():
            self._write(point, summary=scalar(name, value))
        if point.after is not None:
            self._draw(point)
            self._writer.flush()

    def _write(self, point: Point, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        assert self._writer is not None
        self._writer.write_event(Event(step=point.step, wall_time=point.time, **content))

    def end(self, *, finished: bool) -> None:
        """Write the rest."""
        if self._writer:
            self._writer.close()

    def _draw(self, point: Point) -> None:
        from tensorboardX.summary import image

        from evertune.reporting.plots import heat_map_pixels

        assert point.after is not None
        scores = {n.removeprefix(SCORE): value for n, value in point.values.items() if n.startswith(SCORE)}
        known = self._rows.get(point.step, ("", {}))[1]
        self._rows[point.step] = (point.after, known | scores)
        names, rows = zip(*self._rows.values(), strict=True)
        tasks = list(dict.fromkeys(task for row in rows for task in row))
        R = [[row.get(task, math.nan) for task in tasks] for row in rows]
        if tasks:
            pixels = heat_map_pixels(tasks, list(names[1:]), R)
            self._write(point, summary=image("matrix", pixels, dataformats="HWC"))
