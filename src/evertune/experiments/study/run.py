"""A study, done: its parts in order, and within a part side by side whatever has the settings it needs.

OUT/PART/GRID/...            run folders, as `evertune grid` leaves them
OUT/PART/GRID/results.json   settings, metrics, R and cost of its finished runs: small, worth committing
OUT/chosen.json              the settings that were chosen on held-out seeds

What is finished is skipped. A run that is in a `results.json` needs no run folder: another machine resumes a study
from these files alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from evertune.assets import Progress
from evertune.data.stream import stream_file
from evertune.experiments.grid import Cell, Grid, GridCallback, JobResult, Status, cells_of, not_alike, write_results
from evertune.experiments.grid.results import read_results
from evertune.experiments.study.choose import ChosenValue, choices_of, with_choices
from evertune.experiments.study.file import FINDINGS, StudyFile, StudyGrid, base_stream
from evertune.reporting.matrix import Matrix
from evertune.utils.errors import RunFolderError, UserError, unknown
from evertune.utils.files import write_json

Watching = Callable[[], AbstractContextManager[GridCallback]]


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """How the runs of a study ended: why some failed, and what kept the rest from being started."""

    failed: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run of a study before it is done; `waits_for` says which settings it needs first."""

    part: str
    grid: StudyGrid
    cell: Cell
    waits_for: str | None = None


class RecordingCallback(GridCallback):
    """Tells `inner`, and writes a run down as soon as it is finished: a killed study has lost nothing.

    Args:
        inner: what shows the runs.
        write: called with the name of each run that ended well.
    """

    def __init__(self, inner: GridCallback, write: Callable[[str], None]) -> None:
        self._inner, self._write = inner, write

    def changed(self, status: Status) -> None:
        """Pass it on."""
        self._inner.changed(status)

    def run_ended(self, name: str, ended: JobResult) -> None:
        """Pass it on and write it down."""
        self._inner.run_ended(name, ended)
        if ended.problem is None:
            self._write(name)


class Study:
    """A study and the folder that it fills."""

    def __init__(self, spec: StudyFile, out: Path) -> None:
        self.spec, self.out = spec, out
        streams = {place.stream for _, grid in spec.grids() for place in grid.streams}
        self._bases = {stream: base_stream(stream) for stream in streams}
        self._by_name = {stream_file(stream)[0].name: base for stream, base in self._bases.items()}
        self._cells = {grid.name: cells_of(grid, out=self._folder(part, grid)) for part, grid in spec.grids()}

    def parts(self, only: str | None) -> list[str]:
        """The parts to do: all, one, or none for `findings`.

        Raises:
            UserError: there is no such part.
        """
        if only is None:
            return list(self.spec.parts)
        if only not in (*self.spec.parts, FINDINGS):
            raise unknown("part", only, [*self.spec.parts, FINDINGS])
        return [only] if only != FINDINGS else []

    def results(self) -> dict[str, list[Matrix]]:
        """The finished runs by the name of their grid, from the `results.json` files that there are."""
        return {grid.name: _read_results(self._folder(part, grid), grid) for part, grid in self.spec.grids()}

    def measured(self) -> list[Matrix]:
        """The finished runs of all grids that choose nothing: what tables and findings are made of."""
        found = self.results()
        return [run for _, grid in self.spec.grids() if not grid.vary for run in found[grid.name]]

    def choices(self) -> list[ChosenValue]:
        """All settings that are chosen so far."""
        found = self.results()
        return [c for _, grid in self.spec.grids() for c in choices_of(grid, found[grid.name], bases=self._by_name)]

    def size(self, part: str) -> int:
        """How many runs a part has."""
        return sum(len(self._cells[grid.name]) for grid in self.spec.parts[part])

    def planned(self, only: str | None = None) -> list[PlannedRun]:
        """All runs in order, with the settings that are chosen so far."""
        chosen = self.choices()
        return [
            run for part in self.parts(only) for grid in self.spec.parts[part] for run in self._plan(part, grid, chosen)
        ]

    def _plan(self, part: str, grid: StudyGrid, chosen: Sequence[ChosenValue]) -> Iterator[PlannedRun]:
        sources = [one for _, one in self.spec.grids()]
        for cell in self._cells[grid.name]:
            named = replace(cell, name=f"{grid.name}/{cell.name}")
            base = self._bases[cell.config.stream]
            try:
                taken = with_choices(named, grid, base=base, sources=sources, chosen=chosen)
                yield PlannedRun(part, grid, taken)
            except UserError as problem:
                yield PlannedRun(part, grid, named, str(problem))

    def run(
        self, *, watching: Watching, only: str | None = None, jobs: int | None = None, progress: Progress | None = None
    ) -> StudyOutcome:
        """Do what is not done yet.

        Args:
            watching: makes the callback of each batch of runs.
            only: a part, or `findings` for none.
            jobs: runs side by side; None: one per core.
            progress: called during downloads.

        Raises:
            KeyboardInterrupt: stopped by a signal; what was finished is written down.
        """
        failed: dict[str, str] = {}
        notes: list[str] = []
        for part in self.parts(only):
            left = [grid.name for grid in self.spec.parts[part]]
            while left:
                waiting = {p.grid.name: p.waits_for for p in self.planned(part) if p.waits_for}
                ready = [name for name in left if name not in waiting]
                if not ready:
                    return StudyOutcome(failed, f"{part}: {waiting[left[0]]}", tuple(dict.fromkeys(notes)))
                made = self._batch(part, ready, watching, jobs, progress)
                failed |= made.failed
                notes += not_alike([run for name in ready for run in read_results(self._results(part, name))])
                left = [name for name in left if name not in ready]
        return StudyOutcome(failed, None, tuple(dict.fromkeys(notes)))

    def _batch(
        self, part: str, names: Sequence[str], watching: Watching, jobs: int | None, progress: Progress | None
    ) -> Grid:
        """All runs of some grids at once, so that no core waits for the last run of each; whole seeds first."""
        runs = [planned for planned in self.planned(part) if planned.grid.name in names]
        cells = sorted((planned.cell for planned in runs), key=lambda cell: cell.config.seed)
        recorded = {run.get("key", "") for name in names for run in read_results(self._results(part, name))}
        made = Grid(cells, jobs=jobs, progress=progress, recorded=recorded)
        for name in names:
            self._write(runs, made, grid=name)
        with watching() as callback:
            made.run(
                RecordingCallback(callback, lambda name: self._write(runs, made, grid=name.split("/", maxsplit=1)[0]))
            )
        return made

    def _write(self, runs: Sequence[PlannedRun], made: Grid, *, grid: str) -> None:
        """Write down the finished runs of a grid, and what is chosen now."""
        own = [planned for planned in runs if planned.grid.name == grid]
        if cells := [planned.cell for planned in own if made.done[planned.cell.name]]:
            write_results(self._results(own[0].part, grid), made, name=grid, cells=cells)
        if own[0].grid.vary:
            write_json(self.out / "chosen.json", [asdict(choice) for choice in self.choices()])

    def _folder(self, part: str, grid: StudyGrid) -> Path:
        return self.out / part / grid.name

    def _results(self, part: str, name: str) -> Path:
        return self.out / part / name / "results.json"


def _read_results(folder: Path, grid: StudyGrid) -> list[Matrix]:
    """The finished runs of a grid, called by its labels; none before the grid was started."""
    path = folder / "results.json"
    try:
        runs = [Matrix.from_dict(run) for run in read_results(path)]
    except (UserError, TypeError) as problem:
        raise RunFolderError(f"{path} is damaged: {problem}") from problem
    return [replace(run, method=grid.label(run.method)) for run in runs]
