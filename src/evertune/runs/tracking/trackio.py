"""trackio: a run in the project `evertune`, or `TRACKIO_PROJECT`; a local database unless `TRACKIO_SPACE_ID` is set.

trackio show --project evertune
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

from evertune.runs.tracking.jsonl import FILE, read_points
from evertune.runs.tracking.protocol import PROJECT, Point, RunInfo

if TYPE_CHECKING:
    from trackio import Run


class Trackio:
    """Resumed by its name, which contains a part of the run's key."""

    package: ClassVar[str | None] = "trackio"
    waits: ClassVar[bool] = True

    def __init__(self) -> None:
        self._run: Run | None = None

    def begin(self, run: RunInfo) -> Mapping[str, int]:
        """The run of this name, with the steps it has."""
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = f"{run.name}-{run.key[:6]}"
        with redirect_stdout(sys.stderr):  # it prints; our output may be JSON
            self._run = trackio.init(
                project=project,
                name=name,
                group=run.group,
                config={**run.config, "provenance": dict(run.provenance)},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        if os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"):
            return _there_remotely(self._run, run)
        return _there(project, name)

    def log(self, point: Point) -> None:
        """The library has its own writer thread."""
        assert self._run is not None
        self._run.log(dict(point.values), step=point.step)

    def end(self, *, finished: bool) -> None:
        """Wait until all is written."""
        if self._run:
            with redirect_stdout(sys.stderr):
                self._run.finish()


def _there(project: str, name: str) -> dict[str, int]:
    """Last steps by name, of the local database."""
    from trackio.sqlite_storage import SQLiteStorage

    rows: list[dict[str, Any]] = SQLiteStorage.get_logs(project, name)
    there: dict[str, int] = {}
    for row in rows:
        for key, value in row.items():
            if key not in ("step", "timestamp") and isinstance(value, Real):
                there[key] = max(int(row["step"]), there.get(key, 0))
    return there


def _there_remotely(run: Run, tracked: RunInfo) -> dict[str, int]:
    """A space or a server reports only the last step of a run, which trackio reads when it resumes one."""
    last = int(getattr(run, "_next_step", 0)) - 1
    return {name: last for point in read_points(tracked.folder / FILE) for name in point.values}
