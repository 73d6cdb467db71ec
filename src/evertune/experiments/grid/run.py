"""The runs of a grid, done: what is finished is skipped, what is open gets a worker, what another process does is left.

Nothing here imports torch unless something is left to do: a finished grid answers at once.
"""

from __future__ import annotations

import os
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import yaml

from evertune.assets import Progress
from evertune.data import Stream
from evertune.experiments.grid.cells import Cell
from evertune.experiments.grid.ray_pool import RayPool
from evertune.experiments.grid.workers import Job, JobResult, Pool, StopSignals, Workload
from evertune.reporting.matrix import Matrix
from evertune.runs.cells import wanted_cells
from evertune.runs.config import without_effect
from evertune.runs.ledger import read_ledger
from evertune.runs.plugin_code import code_of_run
from evertune.runs.run_data import data_of
from evertune.runs.run_folder import still_holds
from evertune.utils.distributed import refuse_several
from evertune.utils.errors import RunFolderError, UserError
from evertune.utils.files import digest_of, digest_of_file, read_json, write_atomically, write_json
from evertune.utils.plugins import plugin_flags
from evertune.utils.symlinks import refuse_links

SECONDS_BETWEEN_LOOKS = 0.2
Workers = Pool | RayPool
AnyWorkers = TypeVar("AnyWorkers", Pool, RayPool, Workers)


@dataclass(frozen=True, slots=True)
class Running:
    """A run in progress: what it is doing and since when, in seconds."""

    name: str
    doing: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """How far a grid is. `elsewhere` are runs that another process holds; `seconds_left` is None while unknown."""

    done: int
    failed: int
    running: list[Running]
    elsewhere: int
    waiting: int
    seconds_left: float | None


class GridCallback:
    """Gets the events of a grid; the terminal's table is one. Every method may be left out."""

    def changed(self, status: Status) -> None:
        """Called a few times a second."""

    def run_ended(self, name: str, ended: JobResult) -> None:
        """A run ended well (`ended.problem` is None) or failed."""


def work(
    pool: AnyWorkers,
    callback: GridCallback,
    *,
    take_in: Callable[[JobResult], None],
    status: Callable[[AnyWorkers], Status],
) -> None:
    """Do all jobs of `pool`, telling `take_in` and the callback what ended.

    Raises:
        KeyboardInterrupt: stopped by a signal; all workers have ended.
    """
    with StopSignals() as stop:
        try:
            while pool.open and not stop.requested:
                for ended in pool.step():
                    take_in(ended)
                    callback.run_ended(ended.job.name, ended)
                callback.changed(status(pool))
                time.sleep(SECONDS_BETWEEN_LOOKS if pool.open else 0)
        finally:
            pool.stop()
    if stop.requested:
        raise KeyboardInterrupt


class JobRuns:
    """Jobs that are done side by side: how long they took, and why some failed, by their names.

    Args:
        jobs: how many at once.
    """

    def __init__(self, *, jobs: int) -> None:
        self.failed: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._jobs = jobs

    def work(self, pool: Callable[..., Workers], jobs: Sequence[Job], callback: GridCallback, **hooks: Any) -> None:
        """Do `jobs`; `hooks` are those of a `Workload`.

        Raises:
            KeyboardInterrupt: as `work` does.
        """
        environment = {"OMP_NUM_THREADS": threads_each(self._jobs), "PYTHONUNBUFFERED": "1"}
        orders = Workload(jobs=jobs, size=self._jobs, environment=environment, **hooks)
        work(pool(orders), callback, take_in=self.take_in, status=self._status)

    def take_in(self, ended: JobResult) -> None:
        """Note how a job ended."""
        if ended.problem is not None:
            self.failed[ended.job.name] = ended.problem
        if ended.seconds:  # else another process did it
            self.seconds[ended.job.name] = ended.seconds

    @abstractmethod
    def done_now(self, pool: Workers) -> int:
        """How many are done."""

    @abstractmethod
    def doing(self, name: str) -> str:
        """What a job is at."""

    def _status(self, pool: Workers) -> Status:
        running = [Running(w.job.name, self.doing(w.job.name), w.seconds) for w in pool.running]
        return Status(
            done=self.done_now(pool),
            failed=len(self.failed),
            running=running,
            elsewhere=len(pool.elsewhere),
            waiting=len(pool.waiting) - len(pool.elsewhere),
            seconds_left=self._seconds_left([job.name for job in pool.waiting], running),
        )

    def _seconds_left(self, waiting: Sequence[str], running: Sequence[Running]) -> float | None:
        """From the finished jobs: those that differ in the last part of their names only, where there are any."""
        if not self.seconds:
            return None
        kinds: dict[str, list[float]] = {}
        for name, seconds in self.seconds.items():
            kinds.setdefault(_kind(name), []).append(seconds)
        means = {kind: sum(values) / len(values) for kind, values in kinds.items()}
        overall = sum(self.seconds.values()) / len(self.seconds)
        left = sum(means.get(_kind(name), overall) for name in waiting)
        left += sum(max(0.0, means.get(_kind(run.name), overall) - run.seconds) for run in running)
        return left / max(1, min(self._jobs, len(waiting) + len(running)))


class Grid(JobRuns):
    """The runs of a grid and what is known about them.

    Args:
        cells: of `cells_of`.
        jobs: runs side by side; None: one per core, one alone on a GPU. `OMP_NUM_THREADS` is cores / jobs unless set.
        progress: called during downloads.
        ray: where the runs are done: None for processes of this machine, else an address as `RayPool` takes it.
        recorded: keys of runs that count as done though their folders are not here: a `results.json` has them.

    Raises:
        UserError: a stream, a model, a method or an option does not exist; nothing was started.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        jobs: int | None = None,
        progress: Progress | None = None,
        ray: str | None = None,
        recorded: Collection[str] = (),
    ) -> None:
        refuse_several("a grid")
        self._pool: Callable[..., Workers] = Pool if ray is None else partial(RayPool, address=ray)
        self.cells = {cell.name: cell for cell in cells}
        for cell in cells:
            _refuse_linked_place(cell)
        super().__init__(jobs=jobs or 1)
        configs = {cell.config.stream: cell.config for cell in cells}
        self._streams = {name: data_of(config, progress=progress) for name, config in configs.items()}
        self.keys = _keys(cells, self._streams)
        here = {name: self._is_finished(name) for name in self.cells}
        self._elsewhere = {name for name in self.cells if not here[name] and self.keys[name] in recorded}
        self.done = {name: done or name in self._elsewhere for name, done in here.items()}
        open_cells = [cell for cell in cells if not self.done[cell.name]]
        if open_cells:
            check_methods(open_cells)
            _fetch_models(open_cells, progress)
            self._jobs = jobs or default_jobs()

    def run(self, callback: GridCallback) -> None:
        """Do what is not done yet; why a run failed is in `failed`, by its name.

        Raises:
            KeyboardInterrupt: as `work` does.
        """
        jobs = [_job(cell) for name, cell in self.cells.items() if not self.done[name]]
        self.work(
            self._pool,
            jobs,
            callback,
            is_done=lambda job: self._is_finished(job.name),
            before_start=self._write_config,
            when_done=self._remember,
        )

    def take_in(self, ended: JobResult) -> None:
        """Note that a run is done."""
        super().take_in(ended)
        self.done[ended.job.name] = ended.problem is None

    def done_now(self, pool: Workers) -> int:
        """The finished runs."""
        return sum(self.done.values())

    def _write_config(self, job: Job) -> None:
        cell = self.cells[job.name]
        write_atomically(cell.file("yaml"), yaml.safe_dump(cell.config.model_dump(), sort_keys=False))

    def _is_finished(self, name: str) -> bool:
        """Whether a worker has confirmed that this very run is finished, and it has not changed since.

        A worker compares the whole configuration with its defaults; that takes seconds and torch, so it is done once.
        """
        cell = self.cells[name]
        try:
            checked = read_json(cell.file("checked"))
            matrix = Matrix.read(cell.folder)
            if not matrix.finished or not still_holds(cell.folder, matrix):
                return False
            same = checked["key"] == self.keys[name]
            same = same and checked["config"] == digest_of_file(cell.folder / "config.yaml")
        except (RunFolderError, OSError, KeyError, TypeError, AttributeError):
            return False
        self.seconds[name] = float(checked.get("seconds", 0.0))
        return bool(same)

    def _remember(self, ended: JobResult) -> None:
        cell = self.cells[ended.job.name]
        config = digest_of_file(cell.folder / "config.yaml")
        content = {"key": self.keys[cell.name], "config": config, "seconds": round(ended.seconds, 1)}
        write_json(cell.file("checked"), content)

    def doing(self, name: str) -> str:
        """By the files of its run folder."""
        cell = self.cells[name]
        stream = self._streams[cell.config.stream]
        names = [task.name for task in stream.columns]
        return doing(cell.folder, tasks=names, known=len(stream.known), cells=cell.config.evaluation.cells)

    @property
    def finished(self) -> list[Cell]:
        """The finished runs whose folders are here, in the grid's order."""
        return [cell for name, cell in self.cells.items() if self.done[name] and name not in self._elsewhere]


def _refuse_linked_place(cell: Cell) -> None:
    """Raise when a run's folder, or one between it and the grid's, is a link: its log and more are beside it."""
    top = cell.folder.parents[cell.name.count("/")]
    for part in (Path(cell.name), *Path(cell.name).parents[:-1]):
        if (top / part).is_symlink():
            refuse_links(top, [str(part)])


def _job(cell: Cell) -> Job:
    command = (sys.executable, "-m", "evertune", "run", str(cell.file("yaml")), *plugin_flags())
    return Job(cell.name, command, beside=cell.folder)


def check_methods(cells: Sequence[Cell]) -> None:
    """Check the methods of all runs with their options, before anything is started.

    Raises:
        UserError: unknown names, options or values.
    """
    from evertune.runs.api import method_specs
    from evertune.runs.tracking import refuse_missing

    for cell in cells:
        refuse_missing(cell.config.track)
        if len(method_specs(cell.config)) > 1:
            raise UserError(f"method '{cell.config.method}': in a grid, write methods as a list")


def _fetch_models(cells: Sequence[Cell], progress: Progress | None) -> None:
    """Once and here, not by every worker at the same time."""
    from evertune.models import model_folder

    for model in dict.fromkeys(cell.config.model for cell in cells):
        model_folder(model, progress=progress)


def _kind(name: str) -> str:
    """What runs that differ in their seed only have in common: `parcel-smol/ewc` of `parcel-smol/ewc/s0`."""
    return name.rpartition("/")[0]


def _keys(cells: Sequence[Cell], streams: Mapping[str, Stream]) -> dict[str, str]:
    """What identifies each run: its configuration without its place, its data, and the version that reads it."""
    data = {name: stream.fingerprint for name, stream in streams.items()}
    return {
        cell.name: digest_of(
            {
                **cell.config.model_dump(exclude={"out": True, **without_effect(cell.config)}),
                "data": data[cell.config.stream],
                "evertune": version("evertune"),
                **code_of_run(cell.config.method),
            }
        )
        for cell in cells
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs() -> int:
    """One per core, one alone on a GPU."""
    from evertune.utils.device import pick_device

    return _cores() if pick_device().type == "cpu" else 1


def threads_each(jobs: int) -> str:
    """Threads of each of `jobs` workers; what the user has set counts."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // jobs))


def doing(folder: Path, *, tasks: Sequence[str], known: int = 0, cells: str = "all") -> str:
    """What a run is at, from its files: `learning digits (2 of 5)`, or `row 2: 3 of 5 tasks answered`."""
    try:
        rows = read_ledger(folder)
        stages = Matrix.read(folder).stages if (folder / "matrix.json").exists() else []
    except (RunFolderError, OSError):
        return ""  # the run itself will say what is wrong
    learned = [row["stage"] for row in rows if row["event"] == "stage"]
    done = {(row["cell"]["stage"], row["cell"]["task"]) for row in rows if row["event"] == "cell"}
    stage = max([*learned, *(number for number, _ in done)], default=0)
    answered = sum(number == stage for number, _ in done)
    wanted = wanted_cells(cells, tasks, known=known, stages=stages or tasks[known:])
    expected = sum(number == stage for number, _ in wanted)
    if answered >= expected and stages:
        return (
            "writing the report" if stage == len(stages) else f"learning {stages[stage]} ({stage + 1} of {len(stages)})"
        )
    return f"row {stage}: {answered} of {expected} tasks answered" if rows else "starting"
