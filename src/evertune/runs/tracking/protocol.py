"""The tracker protocol (four members), and its inputs: a run, and points, which are numbers by name.

A tracker is one file in this folder and one line in the registry; no other code knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

PROJECT = "evertune"
"""The project of a run in a service, unless the service's own environment variable sets another."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run of the points.

    Attributes:
        key: unique and permanent, also after a resume; services find the run by it.
        group: runs to compare it with: the stream, or the model's folder.
        config: as in `config.yaml`, without secrets; `provenance` as in `provenance.json`.
    """

    folder: Path
    key: str
    name: str
    group: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """Values at a step.

    Attributes:
        step: optimizer steps taken since the base model, over all stages.
        time: in seconds since 1970.
        after: for a row of R the task that was learned last, or `base`; None for a step of training.
    """

    step: int
    values: Mapping[str, float]
    time: float
    after: str | None = None


class Tracker(Protocol):
    """A destination of metrics. After any exception it gets no more points; the run continues."""

    package: ClassVar[str | None]
    """The package that it needs, from the extra of its name; None if it needs none."""

    waits: ClassVar[bool]
    """Whether it may block on a server or a database: then it gets its own thread."""

    def begin(self, run: RunInfo) -> Mapping[str, int]:
        """Open a new run, or the run of this key again; returns the last existing step by value name.

        Existing points are not sent again. For a new run it returns nothing and gets the whole history.
        """

    def log(self, point: Point) -> None:
        """Log a point. Steps never decrease; a row of R has the step of its stage's end."""

    def end(self, *, finished: bool) -> None:
        """Flush and close. If not `finished`, the run was interrupted and may resume."""
