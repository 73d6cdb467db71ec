"""The trackers by name. A new one is a file in this folder and a line here.

Their packages are imported when a run begins, not before: `evertune --help` and runs that don't use them pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

from evertune.runs.tracking.jsonl import Jsonl
from evertune.runs.tracking.mlflow import Mlflow
from evertune.runs.tracking.protocol import Tracker
from evertune.runs.tracking.tensorboard import TensorBoard
from evertune.runs.tracking.trackio import Trackio
from evertune.runs.tracking.wandb import Wandb
from evertune.utils.errors import UserError, unknown
from evertune.utils.plugins import Registry


def _refuse_unusable(_name: str, tracker: Any) -> None:
    if missing := [part for part in ("package", "waits", "begin", "log", "end") if not hasattr(tracker, part)]:
        raise UserError(f"it has no '{missing[0]}': evertune.runs.tracking.Tracker says what a tracker has")


TRACKERS: Registry[Callable[[], Tracker]] = Registry(
    "trackers",
    {"jsonl": Jsonl, "tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb, "mlflow": Mlflow},
    check=_refuse_unusable,
)
LOCAL = ("jsonl", "tensorboard")
"""Always written to the run folder."""


def refuse_missing(names: Iterable[str]) -> None:
    """Check early that a tracker exists and its package is installed.

    Raises:
        UserError: an unknown name, or a missing package, with the command that installs it.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        package = TRACKERS[name]().package
        if package and find_spec(package) is None:
            raise UserError(f"the tracker '{name}' needs a package that is not there: pip install 'evertune[{name}]'")
