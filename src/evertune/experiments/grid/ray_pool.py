"""The workers of a grid on Ray: on this machine, or on a cluster whose machines see the same folders.

Who runs when and where, and what happens when a worker or a machine dies, is Ray's business. What a run is stays the
same: the command, the lock, the log and the folder of `workers`. So a grid may be begun here and ended there.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evertune.experiments.grid.workers import Job, JobResult, Workload, ended_as, locked, start
from evertune.utils.errors import UserError

LOCAL = "local"
RETRIES = 3
"""How often a run is begun again whose worker or machine died, or which was killed (often: the memory was full)."""
SECONDS_BETWEEN_LOCKS = 2.0
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
STOPPED = 143


class KilledError(Exception):
    """A run that a signal has ended: Ray begins it again."""


@dataclass(slots=True)
class RayJob:
    """A run that Ray has: `started` is None until it has a place."""

    job: Job
    started: float | None = field(default=None)

    @property
    def seconds(self) -> float:
        """Since it was seen to run."""
        return 0.0 if self.started is None else time.monotonic() - self.started


class RayPool:
    """The interface of `workers.Pool` over Ray's scheduler; on a cluster its cores say how many run at once.

    Args:
        orders: the jobs, and whom to tell.
        address: 'local', 'auto' (the cluster that this machine belongs to), or `HOST:PORT`.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, orders: Workload, *, address: str = LOCAL) -> None:
        self.elsewhere: list[Job] = []
        self._ray = _connected(address, orders.size)
        self._when_done = orders.when_done
        self._ended = [JobResult(job, 0.0, None) for job in orders.jobs if orders.is_done(job)]
        self._open: dict[Any, RayJob] = {}
        self._looked = 0.0
        done = {ended.job.name for ended in self._ended}
        cores = 1 if address == LOCAL else int(orders.environment.get("OMP_NUM_THREADS", 1))
        do = self._ray.remote(_do).options(
            num_cpus=cores, num_gpus=_gpus(), max_retries=RETRIES, retry_exceptions=[KilledError]
        )
        for job in (job for job in orders.jobs if job.name not in done):
            orders.before_start(job)
            self._open[do.remote(job, dict(orders.environment))] = RayJob(job)

    @property
    def open(self) -> bool:
        """Whether anything is left."""
        return bool(self._ended or self._open)

    @property
    def running(self) -> list[RayJob]:
        """The runs that are at work somewhere: their locks are held."""
        return [run for run in self._open.values() if run.started is not None]

    @property
    def waiting(self) -> list[Job]:
        """The runs that wait for a place."""
        return [run.job for run in self._open.values() if run.started is None]

    def step(self) -> list[JobResult]:
        """What has ended since the last step."""
        ended, self._ended = self._ended, []
        ready, _ = self._ray.wait(list(self._open), num_returns=len(self._open), timeout=0) if self._open else ([], [])
        ended += [self._take_in(reference) for reference in ready]
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOCKS:
            self._look()
        return ended

    def stop(self) -> None:
        """Take every run back that has not ended; what they have finished stays."""
        for reference in self._open:
            self._ray.cancel(reference, force=True)
        self._open = {}
        self._ray.shutdown()

    def _look(self) -> None:
        for run in self._open.values():
            lock = locked(run.job)
            if lock is None:
                run.started = run.started or time.monotonic()
            else:
                lock.close()
                run.started = None
        self._looked = time.monotonic()

    def _take_in(self, reference: Any) -> JobResult:
        job = self._open.pop(reference).job
        try:
            seconds, problem = self._ray.get(reference)
        except Exception as failure:  # what Ray raises for a lost worker is its own, and depends on how it was lost
            reason = str(failure).strip().splitlines()
            return JobResult(job, 0.0, f"{reason[-1] if reason else failure!r} ({RETRIES} times begun again)")
        ended = JobResult(job, seconds, problem)
        if problem is None:
            self._when_done(ended)
        return ended


def _gpus() -> int:
    """Of each run: one where there are any, so that no two share it."""
    from evertune.utils.device import pick_device

    return 0 if pick_device().type == "cpu" else 1


def _connected(address: str, size: int) -> Any:
    # What Ray says of a lost worker would stand in our output; every run has its own log. Read when Ray is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    try:
        import ray
    except ImportError as problem:
        raise UserError("runs on Ray need it: pip install 'evertune[ray]'") from problem
    try:
        if address == LOCAL:
            ray.init(num_cpus=size, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        else:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as problem:  # a start that takes too long is a plain `Exception` in Ray
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        if address == LOCAL:
            raise UserError(f"Ray did not start ({reason}): start evertune grid again, or leave out --ray") from problem
        raise UserError(f"there is no Ray cluster at '{address}': {reason}") from problem
    return ray


def _do(job: Job, environment: Mapping[str, str]) -> tuple[float, str | None]:
    """In Ray's worker: the job's command to its end. Seconds, and what went wrong.

    Raises:
        KilledError: a signal ended it.
    """
    lock = locked(job)
    while lock is None:  # another grid does it, or what a killed worker has left is still at it
        time.sleep(SECONDS_BETWEEN_LOCKS)
        lock = locked(job)
    worker = start(job, lock, environment=environment, prepared=_die_with_parent)
    try:
        worker.process.wait()
    except BaseException:
        worker.process.kill()
        raise
    ended = ended_as(worker)
    worker.lock.close()
    if worker.process.returncode < 0 or worker.process.returncode == STOPPED:
        raise KilledError(ended.problem)
    return ended.seconds, ended.problem


def _die_with_parent() -> None:
    """In the child, before its command: it is killed with Ray's worker. On other systems than Linux it continues."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGTERM)
