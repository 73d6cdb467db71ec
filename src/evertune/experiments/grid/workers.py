"""Commands side by side: each a fresh process with its own log and lock, stopped cleanly, never started twice.

Why processes of their own and not a pool: the number of threads is set before torch is loaded, a crash or a lack of
memory ends one job only, and the lock is inherited. A worker therefore holds its lock even when the process that
started it was killed, so the same job is not started twice; the lock is released when the last process that holds it
ends.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from evertune.utils.errors import UserError
from evertune.utils.files import opened
from evertune.utils.locks import Lock, taken

PATIENCE = 10.0
LINES_OF_A_FAILURE = 5


@dataclass(frozen=True, slots=True)
class Job:
    """A command, and where its lock and log are: `beside` with `.lock` and `.log` at its end."""

    name: str
    command: tuple[str, ...]
    beside: Path

    def file(self, kind: str) -> Path:
        """`s0.log` for the job beside `s0`."""
        return self.beside.with_name(f"{self.beside.name}.{kind}")


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended: `problem` is None when it went well, else what its log says last."""

    job: Job
    seconds: float
    problem: str | None


@dataclass(slots=True)
class Worker:
    """A running job."""

    job: Job
    process: subprocess.Popen[bytes]
    lock: Lock
    log_start: int
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started


def locked(job: Job) -> Lock | None:
    """The lock of `job`, or None while another process holds it."""
    return taken(job.file("lock"))


def start(
    job: Job, lock: Lock, *, environment: Mapping[str, str], prepared: Callable[[], None] | None = None
) -> Worker:
    """Start `job` in a session of its own, so that Ctrl-C in the terminal reaches only who started it.

    `prepared` is called in the child before its command.
    """
    with _log_of(job) as log:
        log.write(f"$ {shlex.join(job.command)}\n".encode())
        log.flush()
        log_start = log.tell()
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            pass_fds=lock.inherited_by,
            preexec_fn=prepared,  # noqa: PLW1509  only where this process has no other threads that matter
        )
    lock.sign(process.pid)
    return Worker(job, process, lock, log_start)


def _log_of(job: Job) -> IO[bytes]:
    path = job.file("log")
    try:
        return os.fdopen(opened(path, os.O_WRONLY | os.O_APPEND), "ab")
    except OSError as problem:
        raise UserError(f"cannot write {path}: {problem.strerror}") from problem


class StopSignals:
    """While entered, Ctrl-C, SIGTERM and SIGHUP only set `requested`: starting a job is never torn apart."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if threading.current_thread() is threading.main_thread() and signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be done, and whom to tell.

    Attributes:
        jobs: in the order in which they are started.
        size: jobs side by side on this machine.
        environment: variables that the workers get besides those of their process.
        is_done: whether a job needs no worker; checked again under its lock, because another process may have done it.
        before_start: called before a job is started, for what its command reads.
        when_done: called after a job went well.
    """

    jobs: Sequence[Job]
    size: int
    environment: Mapping[str, str]
    is_done: Callable[[Job], bool]
    before_start: Callable[[Job], None]
    when_done: Callable[[JobResult], None]


class Pool:
    """Jobs as processes of this machine; `before_start` and `when_done` are called under the job's lock."""

    def __init__(self, orders: Workload) -> None:
        self.waiting = list(orders.jobs)
        self.running: list[Worker] = []
        self.elsewhere: list[Job] = []
        self._orders = orders

    @property
    def open(self) -> bool:
        """Whether anything is left, here or in another process."""
        return bool(self.waiting or self.running)

    def step(self) -> list[JobResult]:
        """Take in what has ended and start what may start; returns what ended since the last step."""
        ended = [self._take_in(worker) for worker in self.running if worker.process.poll() is not None]
        self.running = [worker for worker in self.running if worker.process.returncode is None]
        self.elsewhere = []
        for job in list(self.waiting):
            if len(self.running) >= self._orders.size:
                break
            ended += self._try(job)
        return ended

    def stop(self) -> None:
        """End every worker of this pool; what they have finished stays, for all their files are whole or absent."""
        for worker in self.running:
            worker.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for worker in self.running:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.lock.close()
        self.running = []

    def _try(self, job: Job) -> list[JobResult]:
        lock = locked(job)
        if lock is None:
            self.elsewhere.append(job)
            return []
        self.waiting.remove(job)
        if self._orders.is_done(job):
            lock.close()
            return [JobResult(job, 0.0, None)]
        self._orders.before_start(job)
        self.running.append(start(job, lock, environment=self._orders.environment))
        return []

    def _take_in(self, worker: Worker) -> JobResult:
        ended = ended_as(worker)
        if ended.problem is None:
            self._orders.when_done(ended)
        worker.lock.close()
        return ended


def ended_as(worker: Worker) -> JobResult:
    """How a worker whose process has ended did; it still holds its lock."""
    return JobResult(worker.job, worker.seconds, _problem(worker))


def _problem(worker: Worker) -> str | None:
    code = worker.process.returncode
    if code == 0:
        return None
    with worker.job.file("log").open("rb") as log:
        log.seek(worker.log_start)
        lines = log.read().decode(errors="replace").strip().splitlines()[-LINES_OF_A_FAILURE:]
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; often the memory was full: try fewer jobs" if name == "SIGKILL" else ""
        lines.append(f"ended by {name}{hint}")
    return "\n".join(lines) or f"ended with exit code {code} and printed nothing"
