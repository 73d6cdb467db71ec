"""Batches concurrent questions: one thread, a bounded queue; a batch does not wait until it is full.

The question that has waited longest is always in the next batch, with others of the same key. So questions to many
stages cost few loads of a stage, and none waits for ever.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
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
        key: questions with different keys are not in one batch.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A]],
        *,
        most: int,
        waiting: int,
        idle: Callable[[], None] = lambda: None,
        key: Callable[[Q], Hashable] = lambda _: None,
    ) -> None:
        self._answer, self._most, self._idle, self._key = answer, most, idle, key
        self._waiting, self._room = deque[tuple[Q, Future[A]]](), waiting
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, question: Q) -> Future[A]:
        """The answer, later.

        Raises:
            FullError: too many questions wait already.
        """
        future: Future[A] = Future()
        with self._changed:
            if self._closed or len(self._waiting) >= self._room:
                raise FullError
            self._waiting.append((question, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Answer what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while taken := self._next():
            self._serve([(question, future) for question, future in taken if future.set_running_or_notify_cancel()])

    def _next(self) -> list[tuple[Q, Future[A]]]:
        """The next batch; empty when closed and all is answered."""
        while True:
            with self._changed:
                if not self._waiting and not self._closed:
                    self._changed.wait(SECONDS)
                if self._waiting:
                    return self._taken()
                if self._closed:
                    return []
            self._idle()  # without the lock: it may load a stage

    def _taken(self) -> list[tuple[Q, Future[A]]]:
        """Take the question that has waited longest, and those of its key."""
        key = self._key(self._waiting[0][0])
        taken: list[tuple[Q, Future[A]]] = []
        left: deque[tuple[Q, Future[A]]] = deque()
        for item in self._waiting:
            fits = len(taken) < self._most and self._key(item[0]) == key
            (taken if fits else left).append(item)
        self._waiting = left
        return taken

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
