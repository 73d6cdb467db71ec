"""The callback that turns events of a run into points for all its trackers.

A run reports its events to callbacks (`runner.Callback`), of which this is one. So no code that trains, generates or
resumes depends on tracking.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.metrics.metrics import metrics_of
from evertune.reporting.held_out import HeldOut
from evertune.reporting.tables import mean_or_none
from evertune.runs.callback import Callback
from evertune.runs.tracking.feed import BackgroundFeed, Say, TrackerFeed
from evertune.runs.tracking.history import points_of, settled
from evertune.runs.tracking.protocol import Point, RunInfo
from evertune.runs.tracking.registry import LOCAL, TRACKERS
from evertune.training.run_origin import read_identity
from evertune.training.stages import saved_stages
from evertune.utils.errors import UserError
from evertune.utils.files import read_json, write_json
from evertune.utils.redaction import without_secrets

if TYPE_CHECKING:
    from evertune.data import Task
    from evertune.training.loop import Step
    from evertune.training.stages import Stage

KEY_FILE = "tracking.json"


class TrackingCallback(Callback):
    """Sends the points of one run folder to any number of trackers.

    Args:
        folder: a run folder with configuration and provenance.
        known: tasks that the model knew before the stream: the first columns of R.
        feeds: started feeds; each gets every point.
    """

    def __init__(self, folder: Path, *, known: int, feeds: Sequence[TrackerFeed | BackgroundFeed]) -> None:
        self._folder = folder
        self._known = known
        self._feeds = feeds
        self._steps = [stage.steps for stage in saved_stages(folder)]
        self._rows: list[list[float | None]] = []
        self._held_out: dict[str, float] = {}
        self._stages = 0
        self._start = 0

    def on_run_begin(self, title: str, *, training: list[int], answers: int) -> None:
        """How many stages there will be."""
        self._stages = len(self._steps) + len(training)

    def on_warning(self, text: str) -> None:
        """No metric; the other callbacks report it."""

    def on_task_begin(self, number: int, task: Task) -> None:
        """Step numbers continue from the stage before."""
        self._steps = self._steps[: number - 1]
        self._start = sum(self._steps)

    def on_step_end(self, step: Step, *, samples: int) -> None:
        """A point of training."""
        values = {"loss": step.loss, "learning_rate": step.learning_rate, "gradient_norm": step.gradient_norm}
        values["examples_per_second"] = step.samples_per_second
        known = {f"train/{name}": value for name, value in {**values, **step.logged}.items() if value is not None}
        self._log(Point(self._start + step.step, known, time.time()))

    def on_task_end(self, stage: Stage) -> None:
        """A cached training reports no steps; they are read from its log."""
        self._steps.append(stage.steps)
        for point in points_of(self._folder, stage, self._start) if stage.reused else ():
            self._log(point)

    def on_held_out(self, stage: int, held_out: HeldOut) -> None:
        """Scores of probes, for the point of the row that follows."""
        row = zip(held_out.probes, held_out.scores[stage], strict=True)
        text = held_out.text
        loss = None if text is None else text.last if stage else text.base
        self._held_out = {f"probe/{name}": score for name, score in row if score is not None}
        self._held_out |= {} if loss is None else {"probe/text_loss": loss}

    def on_row_end(self, stage: int, name: str, row: list[float | None], tasks: list[str]) -> None:
        """A point of scores."""
        self._rows = [*self._rows[:stage], row]
        one_by_one = self._stages == len(tasks) - self._known
        learned = self._known + stage if one_by_one or not stage else len(tasks)
        part = [scores[:learned] for scores in self._rows]
        measures: dict[str, float | None] = {"average": mean_or_none(row[:learned])}
        if one_by_one and stage:
            measures["forgetting"] = metrics_of(part, known=self._known)["forgetting"]
        scores = {task: score for task, score in zip(tasks, row, strict=True) if score is not None}
        self.row(stage, after=name, scores=scores, measures=measures)

    def row(self, stage: int, *, after: str, scores: Mapping[str, float], measures: Mapping[str, float | None]) -> None:
        """A point of scores at the end of a stage, with the metrics of the stream where they are defined."""
        values: dict[str, float] = {"stream/stage": stage}
        values |= {f"score/{task}": score for task, score in scores.items()}
        values |= {f"stream/{name}": value for name, value in measures.items() if value is not None}
        values |= self._held_out
        self._held_out = {}
        self._log(Point(sum(self._steps[:stage]), values, time.time(), after))

    def _log(self, point: Point) -> None:
        for feed in self._feeds:
            feed.log(point)


@contextmanager
def tracking(
    folder: Path,
    *,
    to: Sequence[str],
    name: str,
    group: str,
    known: int = 0,
    callback: Callback,
    same_run: bool = True,
) -> Iterator[TrackingCallback]:
    """Track the work on a run folder inside the block.

    Args:
        folder: with its configuration and provenance.
        to: trackers of the registry, beside the default ones.
        name: of the run in a service.
        group: see `RunInfo`.
        known: see `TrackingCallback`.
        callback: gets a warning when a tracker fails.
        same_run: resume the service's run of this folder; else a new one gets the whole history.
    """
    history = _history(folder, say=callback.on_warning)
    run = RunInfo(
        folder=folder,
        key=_key(folder, same=same_run) if to else "",
        name=name,
        group=group,
        config=without_secrets(read_identity(folder)),
        provenance=without_secrets(read_json(folder / "provenance.json")),
    )
    feeds = [_feed(each, say=callback.on_warning) for each in dict.fromkeys((*LOCAL, *to))]
    for feed in feeds:
        feed.begin(run, history)
    finished = False
    try:
        yield TrackingCallback(folder, known=known, feeds=feeds)
        finished = True
    finally:
        for feed in feeds:
            feed.end(finished=finished)


def retrack(folder: Path, *, name: str) -> None:
    """Make a folder's metrics consistent with its stages after a rollback."""
    with tracking(folder, to=(), name=name, group="", callback=Callback()):
        pass


def _feed(name: str, *, say: Say) -> TrackerFeed | BackgroundFeed:
    tracker = TRACKERS[name]()
    feed = TrackerFeed(name, tracker, say=say)
    return BackgroundFeed(feed) if tracker.waits else feed


def _history(folder: Path, *, say: Say) -> list[Point]:
    """Errors in the stored metrics must not stop a run."""
    try:
        return settled(folder)
    except (OSError, UserError, json.JSONDecodeError) as problem:
        say(f"tracking: the metrics of {folder} can't be read ({problem}); the run continues")
        return []


def _key(folder: Path, *, same: bool) -> str:
    """The name of this run for services, written when it is first needed."""
    path = folder / KEY_FILE
    if same and path.exists():
        found: str = read_json(path)["key"]
        return found
    key = secrets.token_hex(8)
    write_json(path, {"key": key})
    return key


def all_of(*callbacks: Callback) -> Callback:
    """One callback that tells several, in order; what `Callback` itself does, it does once."""
    whole = Callback()
    for name in (name for name in vars(Callback) if not name.startswith("_")):
        plain = [each for each in callbacks if not _overrides(each, name)]
        receivers = [getattr(each, name) for each in callbacks if each not in plain[1:]]
        if receivers:
            setattr(whole, name, partial(_tell, receivers))
    return whole


def _overrides(callback: Callback, name: str) -> bool:
    return name in vars(callback) or getattr(type(callback), name) is not getattr(Callback, name)


def _tell(receivers: Sequence[Any], *arguments: Any, **named: Any) -> None:
    for each in receivers:
        each(*arguments, **named)
