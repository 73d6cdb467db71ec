"""What a result file lacks for the leaderboard: one sentence per problem, each with the runs that it is about.

    evertune leaderboard --check results.json

A problem keeps a file from being complete; a note is worth knowing and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.experiments.grid.cells import FIRST_HELD_OUT_SEED
from evertune.experiments.grid.results import ONE_OF_ITS_KIND, not_alike, read_results
from evertune.experiments.leaderboard.board import benchmark_key, grouped
from evertune.experiments.leaderboard.notes import FEWEST_SEEDS
from evertune.experiments.leaderboard.properties import properties_of
from evertune.experiments.leaderboard.sources import Run, contradictions, refuse_other_file, run_of, version_in
from evertune.utils.errors import RunFolderError

COSTS = ("train_seconds", "trained_parameters", "stored_bytes", "samples_trained")
METRICS = ("final_average", "forgetting", "learning_accuracy")
SHOWN = 3
"""Runs that a problem names; of more their number."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A checked result file.

    Attributes:
        lines: how many lines of a leaderboard its runs make.
        problems: what is missing or wrong; empty where the file is complete.
        notes: what is worth knowing.
    """

    file: str
    runs: int
    lines: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_file(path: Path) -> Checked:
    """Check one result file.

    Raises:
        UserError: there is no such file. RunFolderError: it is no result file, damaged, or of another version.
    """
    refuse_other_file(path)
    rows, version = read_results(path), version_in(path)
    runs, found = [], list(_of_file(rows, version))
    by_problem: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        try:
            run = run_of(row, path, number, version)
        except RunFolderError as problem:
            found.append(str(problem).removeprefix(f"{path}, "))
            continue
        runs.append(run)
        for problem_of_run in _of_run(run):
            by_problem.setdefault(problem_of_run, []).append(run.title)
    found += [f"{_named(titles, len(rows))}: {text}" for text, titles in by_problem.items()]
    lines = list(_lines(runs))
    for name, members in lines:
        found += [f"{name}: {problem}" for problem in _of_line(members)]
    return Checked(str(path), len(rows), len(lines), tuple(found), tuple(_notes(runs)))


def _named(titles: Sequence[str], every: int) -> str:
    """Whom a problem is about: `all 144 runs`, or names of runs and how many more."""
    if len(titles) == every > 1:
        return f"all {every} runs"
    more = f" and {len(titles) - SHOWN} more runs" if len(titles) > SHOWN else ""
    return "; ".join(titles[:SHOWN]) + more


def _of_file(rows: Sequence[Any], version: str | None) -> Iterator[str]:
    if not rows:
        yield "the file has no runs: finish a run of the grid, which writes it down"
    if version is None:
        yield "the file does not record the version of evertune: write it with evertune grid or study"


def _of_run(run: Run) -> Iterator[str]:
    matrix = run.matrix
    if not matrix.finished:
        yield f"{len(matrix.R) - 1} of {len(matrix.stages)} stages; the same grid again finishes it"
    elif matrix.gaps:
        yield f"{matrix.gaps} of {sum(map(len, matrix.R))} cells of R are missing; run with evaluation.cells=all"
    if matrix.seed >= FIRST_HELD_OUT_SEED:
        yield f"the seed is held out for choosing settings ({FIRST_HELD_OUT_SEED} and above); run test seeds, 0, 1, 2"
    if problem := properties_of(matrix).problem:
        yield f"{problem} (a method of your own is loaded with --plugin FILE.py)"
    if not matrix.settings:
        yield "no settings are recorded"
    if missing := [name for name in METRICS if name not in matrix.metrics]:
        yield f"no {', '.join(missing)} among the metrics"
    if missing := [name for name in COSTS if matrix.cost.get(name) is None]:
        yield f"no {', '.join(missing)} in the cost"
    if run.made_with is None:
        yield f"no made_with ({', '.join(ONE_OF_ITS_KIND)}): run it with a version that records it"
    elif missing := [name for name in ONE_OF_ITS_KIND if run.made_with.get(name) is None]:
        yield f"no {', '.join(missing)} in made_with"
    yield from contradictions(matrix)


def _lines(runs: Sequence[Run]) -> Iterator[tuple[str, list[Run]]]:
    """The lines that the runs would be on a leaderboard, by a name with the benchmark."""
    benchmarks: dict[Any, list[Run]] = {}
    for run in runs:
        if run.matrix.seed < FIRST_HELD_OUT_SEED:
            benchmarks.setdefault(benchmark_key(run), []).append(run)
    for members in benchmarks.values():
        first = members[0].matrix
        for name, own in grouped(members).items():
            yield f"{name.removesuffix(f' [{own[0].file}]')} on {first.stream}, {first.model}", own


def _of_line(runs: Sequence[Run]) -> Iterator[str]:
    seeds = [run.matrix.seed for run in runs]
    different = sorted(set(seeds))
    if (count := len(different)) < FEWEST_SEEDS:
        shown = ", ".join(map(str, different))
        yield f"{count} test seed{'s' if count > 1 else ''} ({shown}); an interval needs {FEWEST_SEEDS}"
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        yield f"seed {', '.join(map(str, twice))} is there more than once with the same settings"


def _notes(runs: Sequence[Run]) -> Iterator[str]:
    if runs and all(run.matrix.metrics.get("held_out_change") is None for run in runs):
        yield "no held-out change: the stream has no probes, or an earlier version wrote the file"
    yield from not_alike([{"model": run.matrix.model, "made_with": run.made_with} for run in runs if run.made_with])
    if runs and all(run.matrix.seed < FIRST_HELD_OUT_SEED for run in runs):
        yield (
            f"no run has a held-out seed ({FIRST_HELD_OUT_SEED} and above), so the file does not show how its settings "
            "were chosen"
        )
