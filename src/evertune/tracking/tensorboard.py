"""TensorBoard event files in `RUN/tensorboard/`: curves, and the matrix as a picture after each stage.

Written with tensorboardX (0.7 MB; it needs neither TensorFlow nor TensorBoard). The file is made anew from the whole
history each time a run begins: what a kill left unwritten, or wrote too much, is not in it.

    tensorboard --logdir runs/
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from evertune.tracking.protocol import Point, Tracked

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FOLDER = "tensorboard"
SCORE = "score/"


class TensorBoard:
    """Scalars by their names, and the image `matrix`."""

    package: ClassVar[str | None] = None
    waits: ClassVar[bool] = False

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None
        self._rows: dict[int, tuple[str, dict[str, float]]] = {}
        self._title = ""

    def begin(self, run: Tracked) -> Mapping[str, int]:
        """A new file, which also makes a TensorBoard that is open drop what it has read from the old one."""
        from tensorboardX import SummaryWriter

        for old in (run.folder / FOLDER).glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(run.folder / FOLDER), purge_step=0)
        self._title = run.name
        return {}

    def log(self, point: Point) -> None:
        """Scalars, and for a row of R the matrix so far."""
        assert self._writer is not None
        for name, value in point.values.items():
            self._writer.add_scalar(name, value, point.step, walltime=point.time)
        if point.after is not None:
            self._draw(point)
            self._writer.flush()

    def end(self, *, finished: bool) -> None:
        """Write the rest."""
        del finished
        if self._writer:
            self._writer.close()

    def _draw(self, point: Point) -> None:
        from evertune.report.plots import heat_map_pixels

        assert self._writer is not None and point.after is not None
        scores = {n.removeprefix(SCORE): value for n, value in point.values.items() if n.startswith(SCORE)}
        known = self._rows.get(point.step, ("", {}))[1]
        self._rows[point.step] = (point.after, known | scores)
        names, rows = zip(*self._rows.values(), strict=True)
        tasks = list(dict.fromkeys(task for row in rows for task in row))
        R = [[row.get(task, math.nan) for task in tasks] for row in rows]
        matrix = {"tasks": tasks, "stages": list(names[1:]), "R": R}
        if tasks:
            pixels = heat_map_pixels(matrix)
            self._writer.add_image("matrix", pixels, point.step, walltime=point.time, dataformats="HWC")
