"""Batches concurrent questions: one thread, a bounded queue; a batch does not wait until it is full."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


SECONDS = 1.0


class FullError(Exception):
    """The queue is full; the client should retry later."""


class Batches(Generic[Q, A]):
    """Collects questions into batches.

    Args:
        answer: returns one answer per question, in order. Called by one thread only.
        most: questions answered at once.
        waiting: questions that may wait.
        idle: called in the same thread, about every `SECONDS`, while no request waits.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A]],
        *,
        most: int,
        waiting: int,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._answer, self._most, self._idle = answer, most, idle
        self._queue: queue.Queue[tuple[Q, Future[A]] | None] = queue.Queue(waiting)
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return self._queue.qsize()

    def ask(self, question: Q) -> Future[A]:
        """The answer, later.

        Raises:
            FullError: too many questions wait already.
        """
        future: Future[A] = Future()
        if self._closed:
            raise FullError
        try:
            self._queue.put_nowait((question, future))
        except queue.Full as problem:
            raise FullError from problem
        return future

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._next()) is not None:
            taken = [first]
            last = False
            while len(taken) < self._most and not last:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                last = item is None
                taken += [item] if item is not None else []
            self._serve([(question, future) for question, future in taken if future.set_running_or_notify_cancel()])
            if last:
                return

    def _next(self) -> tuple[Q, Future[A]] | None:
        while True:
            try:
                return self._queue.get(timeout=SECONDS)
            except queue.Empty:
                self._idle()

    def _serve(self, taken: Sequence[tuple[Q, Future[A]]]) -> None:
        """The questions of a failed batch are retried one by one, so that a bad question affects no other."""
        try:
            answers = self._answer([question for question, _ in taken]) if taken else []
        except Exception as problem:
            if len(taken) == 1:
                taken[0][1].set_exception(problem)
                return
            for one in taken:
                self._serve([one])
            return
        for (_, future), answer in zip(taken, answers, strict=True):
            future.set_result(answer)
