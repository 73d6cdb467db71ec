"""What a tracker is: four members. And what it is given: a run, and points that are numbers by name.

A tracker is one file in this folder and one line in the registry; nothing that trains or answers knows of any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

PROJECT = "evertune"
"""What a run belongs to in a service, unless the service's own environment variable says otherwise."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The run that points are of.

    Attributes:
        key: its own for ever, also when it is resumed; services find it again by this.
        group: what it is compared with: the stream, or the model's folder.
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
    """Where metrics go. Any exception means that they no longer go there; the run continues without."""

    package: ClassVar[str | None]
    """The package it needs, of the extra of its name; None for one that is always there."""

    waits: ClassVar[bool]
    """Whether it may wait for a server or a database: then it works in a thread of its own."""

    def begin(self, run: RunInfo) -> Mapping[str, int]:
        """Open a new run, or the one of this key again; gives the last step that is there already, by value's name.

        Points that are there are not given again. One that begins anew gives nothing and is given the whole history.
        """

    def log(self, point: Point) -> None:
        """Take a point. Steps never fall, but a row of R stands at the step of its stage's end."""

    def end(self, *, finished: bool) -> None:
        """Write what was kept back; no point follows. Not `finished` means interrupted: it may begin again."""
