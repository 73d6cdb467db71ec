"""Two runs on the same questions: the paired difference of each task's score at the end, with its 95 % interval.

    evertune.paired("runs/first/sequential", "runs/first/replay")        # one seed: a bootstrap over images
    evertune.paired(["runs/a-s0", "runs/a-s1"], ["runs/b-s0", "runs/b-s1"])   # several: Student's t over seeds

The comparison is paired: both runs answered the same questions, so how hard a question is cancels out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from evertune.metrics.statistics import Interval, clustered_intervals, t_interval
from evertune.reporting.labels import number, signed
from evertune.runs.results import Run
from evertune.runs.same_questions import PairedCell, clusters_of, refuse_other_tasks
from evertune.runs.sides import Side, names_of, pairs_of, runs_of
from evertune.utils.arguments import named_arguments
from evertune.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

MEAN = "mean"
WIDTH = 80
"""Of the note below a narrow table."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One task, or the mean over all tasks, in points of 100.

    Attributes:
        task: "mean" for the mean over the tasks.
        a: score of the first side, mean over its seeds.
        b: of the second.
        interval: 95 %, of `difference`; None where there are too few images or seeds, and where the score of a task is
            not the mean of its questions' (BLEU).
        questions: of one seed.
        images: clusters of the bootstrap: questions that share an image count as one.
        by_seed: the difference of each seed.
    """

    task: str
    a: float
    b: float
    interval: Interval | None
    questions: int
    images: int
    by_seed: tuple[float, ...]

    @property
    def difference(self) -> float:
        """B - a: above 0, the second side is better."""
        return self.b - self.a

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True, slots=True, repr=False)
class Paired:
    """What `evertune.paired` returns.

    Attributes:
        a: name of the first side.
        b: of the second.
        seeds: the pairs: seeds of both sides where there are several, else one pair (seed of a).
        units: what the intervals are over: "images" (one seed, bootstrap) or "seeds" (Student's t).
        relaxed: whether the relaxed scores are compared.
        tasks: one difference per task, in the order of the first side.
        mean: the difference of the mean over all tasks.
    """

    a: str
    b: str
    seeds: tuple[int, ...]
    units: Literal["images", "seeds"]
    relaxed: bool
    tasks: tuple[Difference, ...]
    mean: Difference

    def to_frame(self) -> pd.DataFrame:
        """One row per task and one for the mean: `task`, `a`, `b`, `difference`, `low`, `high`, `questions`, `images`.

        Raises:
            UserError: pandas is not installed.
        """
        from evertune.reporting.frames import long_frame

        columns = ("task", "a", "b", "difference", "low", "high", "questions", "images")
        return long_frame(
            columns,
            [
                (d.task, d.a, d.b, d.difference, *(d.interval or (None, None)), d.questions, d.images)
                for d in (*self.tasks, self.mean)
            ],
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{**asdict(d), "difference": d.difference} for d in (*self.tasks, self.mean)]
        about = {"a": self.a, "b": self.b, "seeds": self.seeds, "units": self.units, "relaxed": self.relaxed}
        return {**about, "tasks": rows[:-1], "mean": rows[-1]}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Titles and lines of text; `*` marks an interval that excludes zero."""
        rows = (*self.tasks, self.mean)
        shared = self.units == "images" and any(d.images < d.questions for d in rows)
        count = "n / images" if shared else "n"
        header = ["task", self.a, self.b, "difference", "95 % interval", count]
        return header, [[*_line(d), f"{d.questions} / {d.images}" if shared else str(d.questions)] for d in rows]

    def note(self) -> str:
        """What the numbers are, in a sentence or two."""
        over = (
            f"Student's t over {len(self.seeds)} seeds"
            if self.units == "seeds"
            else "a bootstrap over images (questions about one image are drawn together)"
        )
        scores = "Relaxed scores" if self.relaxed else "Scores"
        return (
            f"{scores} after the last stage, in points; difference = {self.b} − {self.a}; n questions. "
            f"95 % intervals by {over}; * leaves zero out"
        )

    def __repr__(self) -> str:
        header, lines = self.table()
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        sides = [str.ljust, *[str.rjust] * (len(header) - 1)]
        text = ["  ".join(map(_padded, sides, line, widths)).rstrip() for line in (header, *lines)]
        return "\n".join([*text, fill(self.note(), max(WIDTH, len(text[0])), break_on_hyphens=False)])


def _padded(pad: Callable[[str, int], str], cell: str, width: int) -> str:
    return pad(cell, width)


def _line(d: Difference) -> list[str]:
    low_to_high = f"{signed(d.interval[0])} to {signed(d.interval[1])}" if d.interval else "-"
    scores = [number("", d.a), number("", d.b), signed(d.difference)]
    return [d.task, *scores, f"{low_to_high}{' *' if d.is_clear else ''}"]


@named_arguments
def paired(a: Side | Sequence[Side], b: Side | Sequence[Side], *, relaxed: bool = False) -> Paired:
    """The paired difference b - a of two runs on the same questions at their last stage, per task and on average.

    With one run on each side the interval is a bootstrap over images, the questions about one image drawn together: it
    says what other questions could have changed. With several seeds it is Student's t over the seeds, paired by seed:
    it says what another training could have changed, on these questions.

    Args:
        a: a run: its folder, a `Run`, or a `Result` with one method. A list of them, or a folder that holds several,
            are the seeds of one method.
        b: what it is compared with, the same.
        relaxed: compare the relaxed scores instead of the strict ones.

    Raises:
        UserError: the runs have different questions (the task is named), are in progress, or do not pair up by
            seed. RunFolderError: a run is missing or damaged.
    """
    first, second = runs_of(a), runs_of(b)
    pairs = pairs_of(first, second)
    found = [_differences(*pair, relaxed=relaxed, intervals=len(pairs) == 1) for pair in pairs]
    names = names_of(first[0], second[0])
    seeds = tuple(run.matrix.seed for run, _ in pairs)
    *tasks, mean = found[0] if len(found) == 1 else _over_seeds(found)
    return Paired(*names, seeds, "images" if len(found) == 1 else "seeds", relaxed, tuple(tasks), mean)


def _over_seeds(found: Sequence[Sequence[Difference]]) -> list[Difference]:
    """The differences of each task, and of the mean, one per seed, as one."""
    by_task = [{d.task: d for d in one[:-1]} for one in found]
    if odd := [d.task for d in found[0][:-1] if any(d.task not in one for one in by_task)]:
        raise UserError(f"task '{odd[0]}' is not in the runs of every seed")
    tasks = [_as_one([one[d.task] for one in by_task]) for d in found[0][:-1]]
    return [*tasks, _as_one([one[-1] for one in found])]


def _as_one(row: Sequence[Difference]) -> Difference:
    by_seed = tuple(d.difference for d in row)
    means = statistics.fmean(d.a for d in row), statistics.fmean(d.b for d in row)
    return replace(row[0], a=means[0], b=means[1], interval=t_interval(by_seed), by_seed=by_seed)


def _differences(a: Run, b: Run, *, intervals: bool, relaxed: bool) -> list[Difference]:
    """Of one pair of runs: one per task, then their mean; with `intervals` over images."""
    refuse_other_tasks(a, b)
    cells = [PairedCell.of(a, b, task, relaxed=relaxed) for task in a.matrix.tasks]
    clusters = clusters_of([cell.images for cell in cells])
    samples = [(cell.differences, own) for cell, own in zip(cells, clusters, strict=True)]
    each, overall = clustered_intervals(samples) if intervals else ([None] * len(cells), None)
    rows = [
        _difference(task, cell.a, cell.b, interval if cell.is_mean else None, own)
        for task, cell, interval, own in zip(a.matrix.tasks, cells, each, clusters, strict=True)
    ]
    ends = statistics.fmean(cell.a for cell in cells), statistics.fmean(cell.b for cell in cells)
    overall = overall if all(cell.is_mean for cell in cells) else None
    return [*rows, _difference(MEAN, *ends, overall, [cluster for own in clusters for cluster in own])]


def _difference(task: str, a: float, b: float, interval: Interval | None, clusters: Sequence[Hashable]) -> Difference:
    return Difference(task, a, b, interval, len(clusters), len(set(clusters)), (b - a,))
