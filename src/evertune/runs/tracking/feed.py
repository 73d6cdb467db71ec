"""Delivers points to a tracker: each once and in order. A tracker that fails or hangs never blocks the run.

A `TrackerFeed` works in the calling thread; a `BackgroundFeed` has its own thread, for trackers that may block.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from evertune.runs.tracking.protocol import Point, RunInfo, Tracker
from evertune.utils.redaction import without_secrets

Say = Callable[[str], None]

MOST_WAITING = 100_000
SECONDS_TO_FINISH, SECONDS_TO_STOP = 60.0, 10.0


class TrackerFeed:
    """One tracker; after its first failure, which is reported, it gets no more points."""

    def __init__(self, name: str, tracker: Tracker, *, say: Say) -> None:
        self.name = name
        self.failed = False
        self._tracker = tracker
        self._say = say
        self._there: dict[str, int] = {}

    def begin(self, run: RunInfo, history: Sequence[Point]) -> None:
        """Open the run and send the points that the tracker lacks."""
        self._tried(lambda: self._there.update(self._tracker.begin(run)))
        for point in history:
            self.log(point)

    def log(self, point: Point) -> None:
        """Send the values that the tracker lacks."""
        new = {name: value for name, value in point.values.items() if point.step > self._there.get(name, -1)}
        if new:
            self._there.update(dict.fromkeys(new, point.step))
            self._tried(lambda: self._tracker.log(replace(point, values=new)))

    def end(self, *, finished: bool) -> None:
        """Close the tracker."""
        self._tried(lambda: self._tracker.end(finished=finished))

    def give_up(self, why: str) -> None:
        """Report the failure once, and send nothing from now on."""
        if not self.failed:
            self.failed = True
            self._say(f"tracking: {self.name} takes no more metrics ({without_secrets(why)}); the run continues")

    def _tried(self, action: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            action()
        except Exception as problem:  # any exception: a service's library may raise anything, and no run may end by it
            self.give_up(" ".join(f"{type(problem).__name__}: {problem}".split())[:300])


class BackgroundFeed:
    """A feed in a thread: the run waits for it only at the end, for a bounded time."""

    def __init__(self, feed: TrackerFeed) -> None:
        self._feed = feed
        self._waiting: queue.Queue[Callable[[], None]] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name=f"tracking {feed.name}", daemon=True)
        self._over = False

    def begin(self, run: RunInfo, history: Sequence[Point]) -> None:
        """As `TrackerFeed.begin`, at once."""
        self._thread.start()
        self._put(lambda: self._feed.begin(run, history))

    def log(self, point: Point) -> None:
        """As `TrackerFeed.log`, at once."""
        self._put(lambda: self._feed.log(point))

    def end(self, *, finished: bool) -> None:
        """Wait until all points are delivered: a minute at most, less if the run was interrupted."""

        def last() -> None:
            self._feed.end(finished=finished)
            self._over = True

        self._put(last)
        self._thread.join(SECONDS_TO_FINISH if finished else SECONDS_TO_STOP)
        if self._thread.is_alive():
            self._feed.give_up("it did not answer in time")

    def _put(self, action: Callable[[], None]) -> None:
        try:
            self._waiting.put_nowait(action)
        except queue.Full:
            self._feed.give_up(f"{MOST_WAITING} points are waiting for it")

    def _work(self) -> None:
        while not self._over:
            self._waiting.get()()
