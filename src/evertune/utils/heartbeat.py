"""Find out that another process of a run is stopped or out of reach, and end: it would be waited for in vain.

An exchange can't tell a process that is stopped from one that works alone for an hour. So a thread of each process
counts up a number in the store by which they found each other, as long as the process gets time at all, and looks at
the numbers of the others. A second thread counts the seconds without news: the first may hang in a stopped store.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

LONGEST_PAUSE = 5.0
"""Seconds between two looks, at most."""
ENDED = 2


@contextmanager
def ends_after(seconds: float, describe: Callable[[], str]) -> Iterator[None]:
    """End this process where the block takes longer: for a call that can't be interrupted, such as a connection.

    Args:
        seconds: how long the block may take.
        describe: the line that is printed at the end.
    """

    def end() -> None:
        print(describe(), file=sys.stderr, flush=True)
        os._exit(ENDED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Heartbeat:
    """Says that this process is alive, and ends it when another is silent for too long.

    Args:
        number: of this process.
        count: how many there are.
        silence: seconds after which a silent process counts as stopped.
        describe: the line that is printed then, from the other's number.
    """

    def __init__(self, number: int, count: int, *, silence: float, describe: Callable[[int], str]) -> None:
        self._number, self._silence, self._describe = number, silence, describe
        self._pause = min(LONGEST_PAUSE, silence / 4)
        self._others = [other for other in range(count) if other != number]
        self._beats, self._last = 0, dict.fromkeys(self._others, 0)
        self._silent = dict.fromkeys(self._others, 0.0)
        self._stopped = threading.Event()
        self._watching = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)]
        for thread in self._threads:
            thread.start()

    def watch(self, *, on: bool) -> None:
        """Whether silence of others ends this process; it counts from now."""
        self._silent = dict.fromkeys(self._others, 0.0)
        self._watching = on

    def stop(self) -> None:
        """End the threads, before the interpreter goes down: it would end them within the store's own code."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=2 * self._pause)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(self._pause):
            now = time.monotonic()
            passed, before = min(now - before, 2 * self._pause), now  # this process may have been stopped itself
            for other in self._others:
                self._silent[other] += passed
                if self._watching and self._silent[other] >= self._silence and not self._stopped.is_set():
                    print(self._describe(other), file=sys.stderr, flush=True)
                    os._exit(ENDED)  # the main thread can't leave its exchange; every file is whole or absent

    def _beat(self) -> None:
        store = None
        while not self._stopped.wait(self._pause):
            try:
                store = store or self._connected()
                self._look(store)
            except RuntimeError:  # the store's process has ended: it is silent from now on
                store = None

    def _connected(self) -> Any:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=self._pause), wait_for_workers=False)

    def _look(self, store: Any) -> None:
        """Count up the own number, and note who has counted up since the last look."""
        self._beats += 1
        store.set(f"evertune/alive/{self._number}", str(self._beats))
        for other in self._others:
            key = f"evertune/alive/{other}"
            if store.check([key]) and (found := int(store.get(key))) != self._last[other]:
                self._last[other] = found
                self._silent[other] = 0.0
