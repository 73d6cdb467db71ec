"""The lines of a leaderboard: one per benchmark, method and settings, computed from the runs of result files.

A benchmark is a stream with a model. Means are over seeds, intervals Student's. What a file does not record is None:
nothing is estimated in its place. Filters use properties of the methods themselves, never their names.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evertune.experiments.grid.cells import FIRST_HELD_OUT_SEED
from evertune.experiments.leaderboard.notes import FEWEST_SEEDS, marks_of, notes_of
from evertune.experiments.leaderboard.properties import Properties, own_settings, properties_of
from evertune.experiments.leaderboard.sources import TOLERANCE, ResultFile, Run
from evertune.metrics.metrics import metrics_of
from evertune.metrics.statistics import Interval, t_interval
from evertune.reporting.matrix import Matrix
from evertune.reporting.tables import ZERO_SHOT, mean_or_none
from evertune.reporting.variants import settings_of
from evertune.utils.config_io import setting_text

SCORES = ("final_average", "forgetting", "learning_accuracy", "held_out_change")
COSTS = ("trained_parameters", "stored_per_task", "replayed", "train_seconds")
LOWER_IS_BETTER = {"forgetting", *COSTS}

__all__ = ["COSTS", "FEWEST_SEEDS", "SCORES", "Benchmark", "Board", "Estimate", "Line", "board_of", "grouped"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean over seeds with Student's 95 % interval; no interval for a single seed."""

    mean: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A method with its settings on a benchmark.

    Attributes:
        method: its name, and what tells it apart from other lines of the method.
        rank: its place by final average; None for a reference and where the final average is not known.
        reference: a bound or the base model: shown for comparison, not ranked.
        baseline: plain tuning, which the others are to surpass.
        disputed: another file has the same settings and seeds with other scores.
        scores: by the names in `SCORES`, points of 100; None where the runs can't give it.
        costs: by the names in `COSTS`, means over runs; stored bytes are divided by the new tasks, replayed samples are
            those of one epoch of all stages. None where a file does not record it.
        stores_samples: whether it keeps training samples of earlier tasks; None for an unknown method.
        needs_task_id: whether it receives the task of a test question; None for an unknown method.
        settings: as in `--set`, without what is not set.
        made_with: versions, dtype and device; several values are joined.
        held_out_seeds: on which runs of the same settings were made for choosing them, as far as the files have them.
        marks: what a reader must know of this line, in a few words each.
    """

    method: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Estimate | None]
    costs: Mapping[str, float | None] = field(default_factory=dict)
    stores_samples: bool | None = False
    needs_task_id: bool | None = False
    reference: bool = False
    baseline: bool = False
    disputed: bool = False
    rank: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    held_out_seeds: tuple[int, ...] = ()
    marks: tuple[str, ...] = ()

    def value(self, name: str) -> float | None:
        """The mean of a score or a cost."""
        score = self.scores.get(name)
        return score.mean if score else self.costs.get(name)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A stream with a model, its lines from the highest final average to the lowest, references last."""

    stream: str
    model: str
    tasks: tuple[str, ...]
    known: tuple[str, ...]
    limit: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """`pocket-b1 from tiny-aligned`; with the limit of samples where there is one."""
        return f"{self.stream} from {self.model}" + (f", {self.limit}" if self.limit else "")


@dataclass(frozen=True, slots=True)
class Board:
    """All benchmarks, the files that they come from, and notes on the whole."""

    benchmarks: tuple[Benchmark, ...]
    files: tuple[ResultFile, ...]
    runs: int
    notes: tuple[str, ...]


def board_of(runs: Sequence[Run], files: Sequence[ResultFile] = ()) -> Board:
    """The leaderboard of all runs with test seeds. Runs with held-out seeds chose settings and are no lines."""
    test = [run for run in runs if run.matrix.seed < FIRST_HELD_OUT_SEED and run.matrix.finished]
    held_out = [run for run in runs if run.matrix.seed >= FIRST_HELD_OUT_SEED]
    unique, repeated = _without_copies(test)
    notes = []
    if held_out:
        seeds = f"held-out seeds ({FIRST_HELD_OUT_SEED} and above)"
        notes.append(f"{len(held_out)} runs with {seeds} chose settings and are no lines")
    if unfinished := sum(not run.matrix.finished for run in runs):
        notes.append(f"{unfinished} runs are in progress and not counted")
    if repeated:
        notes.append(f"{repeated} runs are in several files and count once")
    tried = _tried(held_out)
    benchmarks = [_benchmark(members, tried) for members in _by_benchmark(unique)]
    benchmarks.sort(key=lambda benchmark: (benchmark.stream, benchmark.model, benchmark.limit))
    return Board(tuple(benchmarks), tuple(files), len(unique), tuple(notes))


def _without_copies(runs: Sequence[Run]) -> tuple[list[Run], int]:
    """Runs without those that another file has too, bit for bit the same R; and how many these are."""
    unique: dict[str, Run] = {}
    for run in runs:
        matrix = run.matrix
        what = (benchmark_key(run), matrix.method, own_settings(matrix), matrix.seed, matrix.R)
        unique.setdefault(repr(what), run)
    return list(unique.values()), len(runs) - len(unique)


def benchmark_key(run: Run) -> tuple[Any, ...]:
    """What runs share whose scores can be compared: stream, model, tasks, known ones, and limits of samples."""
    evaluation = run.matrix.settings.get("evaluation")
    questions = evaluation.get("limit") if isinstance(evaluation, Mapping) else None
    return (*run.matrix.setting, _limit(run.matrix.settings.get("limit"), questions))


def _limit(samples: Any, questions: Any) -> str:
    parts = [f"at most {samples} samples per task"] if samples is not None else []
    return ", ".join([*parts, *([f"at most {questions} questions per task"] if questions is not None else [])])


def _by_benchmark(runs: Sequence[Run]) -> Iterable[list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(benchmark_key(run), []).append(run)
    return groups.values()


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of one benchmark by line: the method and what differs in its settings.

    Two runs of the same settings and seed that disagree can't be averaged: then each file has a line of its own.
    """
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.matrix.method, []).append(run)
    lines: dict[str, list[Run]] = {}
    for method, members in by_method.items():
        for run, special in zip(members, _variants(method, members), strict=True):
            lines.setdefault(f"{method} ({special})" if special else method, []).append(run)
    split: dict[str, list[Run]] = {}
    for name, members in lines.items():
        clear = len({run.matrix.seed for run in members}) == len(members)
        for run in members:
            split.setdefault(name if clear else f"{name} [{run.file}]", []).append(run)
    return split


def _variants(method: str, runs: Sequence[Run]) -> list[str]:
    """What is special about each run of a method, `router=calibrated`; empty where all are set alike, by default."""
    settings = [own_settings(run.matrix) for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    differing = [key for key in keys if len({one.get(key) for one in settings}) > 1]
    return [
        ", ".join(setting_text(key, one[key], method=method) for key in differing if key in one) for one in settings
    ]


def _benchmark(runs: Sequence[Run], tried: Mapping[str, set[int]]) -> Benchmark:
    plain = _plain_samples(runs)
    groups = grouped(runs)
    lines = [_line(name, members, plain, tried) for name, members in groups.items()]
    finals = {name: _finals(members) for name, members in groups.items()}
    ranked = sorted((line for line in lines if not line.reference), key=_place)
    marked = [
        replace(line, rank=_rank(line, ranked), marks=tuple(marks_of(line, ranked, lines, finals))) for line in ranked
    ]
    references = sorted([*(line for line in lines if line.reference), _zero_shot(runs)], key=_place)
    stream, model, tasks, known, limit = benchmark_key(runs[0])
    notes = tuple(notes_of(runs))
    return Benchmark(stream, model, tasks[known:], tasks[:known], limit, (*marked, *references), notes)


def _rank(line: Line, ranked: Sequence[Line]) -> int | None:
    """One more than there are lines above; equal lines share a rank."""
    own = line.scores["final_average"]
    above = [other for one in ranked if (other := one.scores["final_average"]) and own]
    return 1 + sum(other.mean > own.mean + TOLERANCE for other in above) if own else None


def _place(line: Line) -> tuple[float, str]:
    final = line.scores["final_average"]
    return -final.mean if final else float("inf"), line.method


def _line(name: str, runs: Sequence[Run], plain: Mapping[Any, int], tried: Mapping[str, set[int]]) -> Line:
    properties = properties_of(runs[0].matrix)
    each = [_scores(run, properties) for run in runs]
    costs = [_costs(run, properties, plain) for run in runs]
    settings = {key: value for key, value in settings_of(runs[0].matrix).items() if value is not None}
    return Line(
        method=name,
        seeds=tuple(sorted(run.matrix.seed for run in runs)),
        scores={key: estimate([one[key] for one in each]) for key in SCORES},
        costs={key: _mean([one[key] for one in costs]) for key in COSTS},
        stores_samples=properties.stores_samples,
        needs_task_id=properties.needs_task_id,
        reference=properties.reference,
        baseline=properties.baseline,
        disputed=name.endswith(f" [{runs[0].file}]"),
        settings=settings,
        made_with=_made_with(runs),
        files=tuple(dict.fromkeys(run.file for run in runs)),
        held_out_seeds=tuple(sorted(tried.get(_identity(runs[0].matrix), ()))),
    )


def _scores(run: Run, properties: Properties) -> dict[str, float | None]:
    """From R itself; a reference that starts anew for each task has nothing to forget, and no final model."""
    computed = metrics_of(run.matrix.R, known=len(run.matrix.known))
    hidden = {"final_average", "forgetting"} if properties.reference and run.matrix.follows_stream else set()
    held_out = run.matrix.metrics.get("held_out_change")
    return {name: None if name in hidden else computed.get(name) for name in SCORES[:3]} | {"held_out_change": held_out}


def _finals(runs: Sequence[Run]) -> dict[int, float]:
    finals = {run.matrix.seed: mean_or_none(run.matrix.R[-1]) for run in runs}
    return {seed: final for seed, final in finals.items() if final is not None}


def _costs(run: Run, properties: Properties, plain: Mapping[Any, int]) -> dict[str, float | None]:
    cost, new = run.matrix.cost, len(run.matrix.tasks) - len(run.matrix.known)
    stored = cost.get("stored_bytes")
    return {
        "trained_parameters": cost.get("trained_parameters"),
        "stored_per_task": None if stored is None or properties.reference else stored / new,
        "replayed": None if properties.reference else _replayed(run, properties, plain),
        "train_seconds": cost.get("train_seconds"),
    }


def _plain_samples(runs: Sequence[Run]) -> dict[Any, int]:
    """The samples that plain training sees, by seed: of methods that store none and learn task by task."""
    found: dict[int, set[int]] = {}
    for run in runs:
        trained = run.matrix.cost.get("samples_trained")
        if trained is not None and properties_of(run.matrix).stores_samples is False and run.matrix.follows_stream:
            found.setdefault(run.matrix.seed, set()).add(trained)
    return {seed: counts.pop() for seed, counts in found.items() if len(counts) == 1}


def _replayed(run: Run, properties: Properties, plain: Mapping[Any, int]) -> float | None:
    """Training samples beyond those of plain training. A memory that is drawn from in each step adds none to the plan,
    and how much it is used is in no result file."""
    if properties.stores_samples is False:
        return 0
    trained, alone = run.matrix.cost.get("samples_trained"), plain.get(run.matrix.seed)
    if properties.stores_samples is None or trained is None or alone is None or trained <= alone:
        return None
    return float(trained - alone)


def _made_with(runs: Sequence[Run]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in {"evertune": run.evertune, **(run.made_with or {})}.items():
            if value is not None:
                found.setdefault(str(key), {})[str(value)] = None
    return {key: ", ".join(values) for key, values in found.items()}


def _identity(matrix: Matrix) -> str:
    """Model, method, settings and tasks in any order, as a key: what was chosen on a stream holds for its reverse."""
    tasks = sorted(matrix.tasks), sorted(matrix.known)
    return repr((matrix.model, matrix.method, sorted(own_settings(matrix).items()), tasks))


def _tried(held_out: Sequence[Run]) -> dict[str, set[int]]:
    """The held-out seeds of each identity."""
    found: dict[str, set[int]] = {}
    for run in held_out:
        found.setdefault(_identity(run.matrix), set()).add(run.matrix.seed)
    return found


def _zero_shot(runs: Sequence[Run]) -> Line:
    """Row 0 is the same for every method, so each seed counts once."""
    by_seed = {run.matrix.seed: mean_or_none(run.matrix.R[0]) for run in runs}
    scores = dict.fromkeys(SCORES) | {"final_average": estimate(list(by_seed.values()))}
    return Line(ZERO_SHOT, tuple(sorted(by_seed)), scores, dict.fromkeys(COSTS), reference=True)


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """The mean and its interval; None unless every seed has a value."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Estimate(statistics.fmean(known), t_interval(known))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
