"""Tables over finished runs: methods side by side with their spread over seeds, and one run's matrix.

Pure functions over loaded `matrix.json`s, so that the terminal, the Markdown and the page show the same numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console, ConsoleOptions, Group
from rich.text import Text

from evertune.metrics.metrics import REFERENCE_METRICS, formulas, metrics_of, reasons_of
from evertune.reporting.blocks import BlockTable, flowed
from evertune.reporting.held_out import FORMULAS
from evertune.reporting.labels import METRIC_TITLES, duration, number
from evertune.reporting.matrix import Matrix
from evertune.reporting.matrix_text import matrix_text
from evertune.reporting.variants import shared_settings, variant_names
from evertune.utils.errors import UserError, kind_of

ZERO_SHOT = "zero-shot"
BASE = "base"
BOUNDS = ("joint", "direct")
COLUMNS = (
    "final_average",
    "learning_accuracy",
    "forgetting",
    "bwt",
    "intransigence",
    "relative_average",
    "gap_to_joint",
    "held_out_change",
)
DIRECT_NOTE = (
    "direct tunes each task alone: its learning is R*; its final average is that of the last task's model only"
)
OTHER_PROBES = "The runs have different probes, so their held-out changes are not comparable"
PARTLY_NOTE = "What is measured against joint or direct is over those seeds only that the bound was run with too"


@dataclass(frozen=True, slots=True)
class MeanStd:
    """Mean and sample standard deviation over seeds; None for a single seed."""

    mean: float
    deviation: float | None

    def shown(self, name: str) -> str:
        """`70.1 ± 2.0`, or `70.1` when there is one seed; `name` is the metric's."""
        mean = number(name, self.mean)
        return mean if self.deviation is None else f"{mean} ± {number(name, self.deviation)}"


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One line of a comparison: a method on a stream, over its seeds.

    Attributes:
        seeds: of the finished runs that the values are means over.
        values: a spread for each name in `COLUMNS`; None where the runs can't give it.
        train_seconds: mean over runs.
        unfinished: how many runs were left out because they are still in progress.
        note: what the reader must know before comparing; may be empty.
    """

    stream: str
    model: str
    method: str
    seeds: tuple[int, ...]
    values: Mapping[str, MeanStd | None]
    train_seconds: float | None
    unfinished: int = 0
    note: str = ""

    @property
    def base(self) -> str:
        """The method's name without the folder that tells variants apart."""
        return self.method.split(" (")[0]

    def shown(self, name: str) -> str:
        """The value of `name` as text; `-` when there is none, `†` where it does not mean what it does elsewhere."""
        value = self.values.get(name)
        if value is None:
            return "-"
        return value.shown(name) + ("†" if self.base == "direct" and name == "final_average" else "")


def metrics_with_references(matrix: Matrix, others: Sequence[Matrix]) -> dict[str, float | None]:
    """Metrics of one run; those against a reference use the `direct` and `joint` runs of the same setting and seed."""
    stored: dict[str, float | None] = dict.fromkeys(formulas()) | matrix.metrics
    if not matrix.finished:
        return stored | {"zero_shot": mean_or_none(matrix.R[0][len(matrix.known) :])}
    computed = metrics_of(matrix.R, known=len(matrix.known), **_references(matrix, others))
    # A run may have been given a reference that is not among `others`: its number stays.
    return stored | {name: value for name, value in computed.items() if value is not None}


def reasons_with_references(matrix: Matrix, others: Sequence[Matrix]) -> dict[str, str]:
    """Why a metric of `metrics_with_references` is None, by name."""
    if not matrix.finished:
        return dict.fromkeys(formulas(), "the run is in progress")
    held_out = {name: reason for name, reason in matrix.not_computed.items() if name in FORMULAS}
    return reasons_of(matrix.R, known=len(matrix.known), **_references(matrix, others)) | held_out


def _references(matrix: Matrix, others: Sequence[Matrix]) -> dict[str, Any]:
    """What `metrics_of` takes of the runs of `direct` and `joint` with the same setting and seed."""
    fitting = [
        other
        for other in others
        if other.setting == matrix.setting and other.seed == matrix.seed and other.finished
        if shared_settings(other) == shared_settings(matrix)
    ]
    direct = next((other.diagonal() for other in fitting if other.method == "direct"), None)
    joint = next((mean_or_none(other.R[-1]) for other in fitting if other.method == "joint"), None)
    return {"direct": direct, "joint_average": joint}


def mean_or_none(scores: Sequence[float | None]) -> float | None:
    """The mean; None where one of them was not evaluated."""
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if known and len(known) == len(scores) else None


def compare(matrices: Sequence[Matrix]) -> list[ComparisonRow]:
    """Methods side by side, each over its seeds.

    Order: zero-shot, sequential, then the other methods from the lowest final average to the highest, joint, direct;
    one block for each stream and model. Runs in progress are counted, not averaged. Runs with other settings are
    variants: each gets its own row that names what differs. So do two runs with the same settings and seed, by folder.

    Raises:
        UserError: it is no list of matrices.
    """
    given: Any = matrices
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if odd := [each for each in listed if not isinstance(each, Matrix)]:
        raise UserError(
            f"compare takes matrices, not {kind_of(odd[0])}: compare([run.matrix for run in result.runs.values()]), or "
            "evertune.load_run(FOLDER) first"
        )
    rows: list[ComparisonRow] = []
    for setting in dict.fromkeys(matrix.setting for matrix in listed):
        members = [matrix for matrix in listed if matrix.setting == setting]
        rows += _setting_rows(members, listed)
    return rows


def by_method(matrices: Sequence[Matrix]) -> dict[str, list[Matrix]]:
    """Runs of one setting by method; variants by method and what differs in their settings, or else their folder."""
    groups: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        groups.setdefault(matrix.method, []).append(matrix)
    variants: dict[str, list[Matrix]] = {}
    for method, members in groups.items():
        for matrix, special in zip(members, variant_names(members), strict=True):
            variants.setdefault(f"{method} ({special})" if special else method, []).append(matrix)
    split: dict[str, list[Matrix]] = {}
    for name, members in variants.items():
        if len({m.seed for m in members}) == len(members):
            split[name] = members
        else:
            labels = [m.folder or str(place) for place, m in enumerate(members, start=1)]
            if len(set(labels)) < len(labels):  # folders of one name at different places
                labels = [f"{label}, {place}" for place, label in enumerate(labels, start=1)]
            split |= {f"{name} ({label})": [m] for label, m in zip(labels, members, strict=True)}
    return split


def in_order(matrices: Sequence[Matrix]) -> dict[str, list[Matrix]]:
    """Runs of one setting as in `by_method`, in the order of the rows of `compare`: that of plots and pages too."""
    groups = by_method(matrices)
    return {row.method: groups[row.method] for row in _setting_rows(matrices, matrices) if row.method in groups}


def _setting_rows(members: Sequence[Matrix], everything: Sequence[Matrix]) -> list[ComparisonRow]:
    rows = [_method_row(name, group, everything) for name, group in by_method(members).items()]
    evaluated = {_probes(matrix) for matrix in members} - {()}
    if len(evaluated) > 1:
        rows = [replace(row, note="; ".join(filter(None, (row.note, OTHER_PROBES)))) for row in rows]
    return [_zero_shot_row(members), *sorted(rows, key=_place)]


def _probes(matrix: Matrix) -> tuple[str, ...]:
    return tuple(matrix.held_out.probes) if matrix.held_out else ()


def rank_of(method: str) -> int:
    """Where a method stands in a table: zero-shot, sequential, all others, joint, direct."""
    return {ZERO_SHOT: 0, "sequential": 1, "joint": 3, "direct": 4}.get(method, 2)


def _place(row: ComparisonRow) -> tuple[int, float, str]:
    final = row.values["final_average"]
    return rank_of(row.base), final.mean if final else float("inf"), row.method


def _method_row(name: str, group: Sequence[Matrix], everything: Sequence[Matrix]) -> ComparisonRow:
    finished = [matrix for matrix in group if matrix.finished]
    metrics = [metrics_with_references(matrix, everything) for matrix in finished]
    direct = group[0].method == "direct"
    kept = (
        ("final_average", "learning_accuracy") if direct else COLUMNS
    )  # it starts anew for each task: nothing to forget
    unfinished = len(group) - len(finished)
    notes = [DIRECT_NOTE] if direct and finished else []
    notes += [_progress_note(name, group, unfinished)] if unfinished else []
    notes += [PARTLY_NOTE] if not direct and _partly_known(metrics) else []
    notes += _gaps_note(name, finished)
    return ComparisonRow(
        stream=group[0].stream,
        model=group[0].model,
        method=name,
        seeds=tuple(sorted(matrix.seed for matrix in finished)),
        values={c: spread([m.get(c) for m in metrics]) if c in kept else None for c in COLUMNS},
        train_seconds=_mean([matrix.cost.get("train_seconds") for matrix in finished]),
        unfinished=unfinished,
        note="; ".join(notes),
    )


def _progress_note(name: str, group: Sequence[Matrix], unfinished: int) -> str:
    if len(group) > 1:
        return f"{name}: {unfinished} of {len(group)} runs are in progress and not counted"
    return f"{name} is in progress: {len(group[0].R) - 1} of {len(group[0].stages)} stages"


def _partly_known(metrics: Sequence[Mapping[str, float | None]]) -> bool:
    """Whether a bound was run with some of the seeds only."""
    return any(0 < sum(m[c] is not None for m in metrics) < len(metrics) for c in REFERENCE_METRICS)


def _gaps_note(name: str, finished: Sequence[Matrix]) -> list[str]:
    """A note where metrics are missing, or are of some of the seeds only, since cells were not evaluated."""
    lacking = [set(reasons_of(m.R, known=len(m.known))) - set(REFERENCE_METRICS) for m in finished if m.gaps]
    names = [METRIC_TITLES[c] for c in COLUMNS if any(c in metrics for metrics in lacking)]
    if not names or len({m.method for m in finished} & set(BOUNDS)):
        return []
    some = "" if len(lacking) == len(finished) else f" in {len(lacking)} of {len(finished)} runs"
    return [f"{name}: no {', '.join(names)}{some}, since not all cells were evaluated (evaluation.cells)"]


def _zero_shot_row(members: Sequence[Matrix]) -> ComparisonRow:
    """Row 0 is the same for every method, so each seed counts once."""
    means = ((matrix.seed, mean_or_none(matrix.R[0])) for matrix in reversed(members))
    by_seed = {seed: mean for seed, mean in means if mean is not None}
    values: dict[str, MeanStd | None] = dict.fromkeys(COLUMNS)
    values["final_average"] = spread(list(by_seed.values()))
    return ComparisonRow(members[0].stream, members[0].model, ZERO_SHOT, tuple(sorted(by_seed)), values, None)


def spread(values: Sequence[float | None]) -> MeanStd | None:
    """Mean and sample standard deviation of the values that are known; None when there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return MeanStd(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _mean(values: Sequence[float | None]) -> float | None:
    result = spread(values)
    return result.mean if result else None


def shown_columns(rows: Sequence[ComparisonRow]) -> list[str]:
    """The columns that have at least one value: references that were not run are left out."""
    return [name for name in COLUMNS if any(row.values.get(name) for row in rows)]


def header_of(rows: Sequence[ComparisonRow]) -> tuple[list[str], int]:
    """The titles of a comparison's columns, and how many of the first are names, not numbers."""
    several = ["stream", "model"] if len({(row.stream, row.model) for row in rows}) > 1 else []
    header = [*several, "method", "seeds", *(METRIC_TITLES[name] for name in shown_columns(rows)), "training"]
    return header, header.index("method") + 1


def cells_of(row: ComparisonRow, rows: Sequence[ComparisonRow]) -> list[str]:
    """A line of the comparison below `header_of`."""
    several = [row.stream, row.model] if len({(r.stream, r.model) for r in rows}) > 1 else []
    values = [row.shown(name) for name in shown_columns(rows)]
    trained = "-" if row.train_seconds is None else duration(row.train_seconds)
    return [*several, row.method, str(len(row.seeds)), *values, trained]


def notes_of(rows: Sequence[ComparisonRow]) -> list[str]:
    """What stands under the table, each once."""
    return list(dict.fromkeys(("† " if DIRECT_NOTE in row.note else "") + row.note for row in rows if row.note))


def as_markdown(rows: Sequence[ComparisonRow]) -> str:
    """The comparison as a Markdown table, its notes below."""
    header, names = header_of(rows)
    return markdown_table(header, [cells_of(row, rows) for row in rows], names=names, notes=notes_of(rows))


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], *, names: int, notes: Sequence[str]) -> str:
    """A Markdown table whose first `names` columns are texts, its notes below."""
    rule = ["---"] * names + ["---:"] * (len(header) - names)
    rows = [header, rule, *lines]
    table = "\n".join("| " + " | ".join(markdown_text(cell) for cell in row) + " |" for row in rows)
    return "\n".join([table, *(f"\n{markdown_text(note)}" for note in notes)]) + "\n"


def matrix_as_markdown(tasks: Sequence[str], stages: Sequence[str], R: Sequence[Sequence[float | None]]) -> str:
    """R as a Markdown table; `-` where a score is None."""
    lines = [["after", *tasks], ["---"] + ["---:"] * len(tasks)]
    for name, scores in zip((BASE, *stages), R, strict=False):
        lines.append([markdown_text(name), *("-" if score is None else f"{score:.1f}" for score in scores)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_text(text: str) -> str:
    """A text of any origin on one line, without the characters that end a cell or begin a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def rich_table(rows: Sequence[ComparisonRow]) -> Group:
    """The comparison for the terminal, with its notes."""
    header, names = header_of(rows)
    styles = ["dim" if row.base in (ZERO_SHOT, *BOUNDS) else "" for row in rows]
    table = BlockTable(header, [cells_of(row, rows) for row in rows], names=names, styles=styles)
    return Group(table, *(Text(note, style="dim") for note in notes_of(rows)))


class rich_matrix:  # noqa: N801  (used like the functions around it)
    """R of one run for the terminal: rows stages, columns tasks, what was just learned in bold, metrics under it."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Its lines, laid out for the width that there is."""
        matrix = self.matrix
        title = f"{matrix.method} on {matrix.stream}, {matrix.model}, seed {matrix.seed}"
        yield Text(title, style="bold")
        rows = [BASE, *matrix.stages]
        made = matrix_text(matrix.tasks, rows, width=options.max_width)
        yield from made.header()
        for stage, scores in enumerate(matrix.R):
            yield made.row(stage, rows[stage], scores, matrix.tasks)
        yield from summary_of(matrix, width=options.max_width)


def summary_of(matrix: Matrix, *, width: int) -> Iterator[Text]:
    """The lines under a matrix: what was known before, the metrics, and what became of held-out abilities."""
    if matrix.known:
        yield Text(f"known before: {', '.join(matrix.known)}", style="dim")
    held_out = matrix.held_out.lines() if matrix.held_out else []
    for parts in (_metrics(matrix), held_out):
        yield from (Text(line, style="dim", no_wrap=True) for line in flowed(parts, width=width))
    yield from (Text(line, style="dim") for line in (_gaps_line(matrix), _sampling_line(matrix)) if line)


def _metrics(matrix: Matrix) -> list[str]:
    if not matrix.finished:
        return [f"in progress: {len(matrix.R) - 1} of {len(matrix.stages)} stages"]
    metrics = metrics_with_references(matrix, [matrix])
    hidden = {*FORMULAS, *(REFERENCE_METRICS if matrix.method in BOUNDS else ())}  # those have lines of their own
    return [
        f"{METRIC_TITLES[name]} {number(name, value)}"
        for name, value in metrics.items()
        if value is not None and name in METRIC_TITLES and name not in hidden
    ]


def _sampling_line(matrix: Matrix) -> str:
    """How far the scores of the last row may be off where `evaluation.limit` was set; '' where it was not."""
    limit = (matrix.settings.get("evaluation") or {}).get("limit")
    last = [cell for cell in matrix.cells if cell["stage"] == len(matrix.R) - 1 and cell["task"] in matrix.tasks]
    errors = [error for cell in last if (error := cell.get("standard_error")) is not None]
    if limit is None or not errors:
        return ""
    span = f"{min(errors):.1f} to {max(errors):.1f}" if len(errors) > 1 else f"{errors[0]:.1f}"
    return f"at most {limit} questions per task (evaluation.limit): standard error of a score {span} points"


def _gaps_line(matrix: Matrix) -> str:
    """What the cells that were not evaluated leave out; '' where there are none."""
    if not matrix.gaps:
        return ""
    reasons = reasons_with_references(matrix, [matrix]) if matrix.finished and matrix.follows_stream else {}
    names = ", ".join(
        METRIC_TITLES[name]
        for name in reasons
        if name in METRIC_TITLES and name not in REFERENCE_METRICS and name not in FORMULAS
    )
    count = sum(map(len, matrix.R))
    left_out = f"; not computed: {names}" if names else ""
    return f"{matrix.gaps} of {count} cells not evaluated{left_out} (evaluation.cells=all evaluates them)"
