"""What the page says about one run: plain values for the template, nothing of HTML but the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evertune.metrics.rules import ABOVE_100
from evertune.metrics.statistics import FEWEST, mean_interval, share_interval
from evertune.reporting.examples import Examples, Thumbnails, examples_of
from evertune.reporting.held_out import Change, shown
from evertune.reporting.labels import METRIC_TITLES, duration, number
from evertune.reporting.logged import logged_values
from evertune.reporting.matrix import Matrix
from evertune.reporting.plots import heat_map
from evertune.reporting.tables import mean_or_none, metrics_with_references, reasons_with_references
from evertune.utils.errors import RunFolderError
from evertune.utils.files import read_json
from evertune.utils.sizes import size

MOST_EXPERTS_SHOWN = 24
IN_SHORT = ("final_average", "forgetting")
"""Metrics beside a seed, before it is opened."""


def run_view(run: Path, matrix: Matrix, others: Sequence[Matrix], images: Thumbnails) -> dict[str, Any]:
    """What the page says about one run."""
    evaluated = [*matrix.tasks, *(matrix.held_out.probes if matrix.held_out else ())]
    return {
        "seed": matrix.seed,
        "folder": str(run),
        "progress": "" if matrix.finished else f"{len(matrix.R) - 1} of {len(matrix.stages)} stages",
        "known": len(matrix.known),
        "follows_stream": matrix.follows_stream,
        "heat_map": Markup(heat_map(matrix)),
        "tasks": [_task(matrix, column) for column in range(len(matrix.tasks))],
        "average": _averages(matrix),
        "held_out": _held_out(matrix),
        "experts": _experts(matrix),
        **_metrics(matrix, others),
        "cost": _cost(matrix.cost),
        "logged": logged_values(run),
        "warnings": [str(warning) for warning in matrix.warnings],
        "examples": [_with_side(examples_of(run, matrix, task, images)) for task in evaluated],
        "provenance": _provenance(run),
    }


def _task(matrix: Matrix, column: int) -> dict[str, str]:
    """One line of the table of tasks: scores before, right after learning, and at the end.

    A known task was learned before; its note says so, and a score that is not exact by its name.
    """
    name, R = matrix.tasks[column], matrix.R
    own, last = matrix.stage_of(name), len(R) - 1
    cell = next((c for c in matrix.cells if c["stage"] == last and c["task"] == name), {})
    count, rule = cell.get("n"), str(cell.get("score_rule", "exact"))
    relaxed = matrix.relaxed
    return {
        "name": name,
        "note": " · ".join(["known before"] * (own == 0) + [rule] * (rule != "exact")),
        "base": _shown(R[0][column]),
        "own": _shown(None if own is None else R[own][column]),
        "last": _shown(R[-1][column]),
        "interval": _interval(cell, R[-1][column]),
        "relaxed": _shown(relaxed[-1][column] if relaxed else None),
        "count": str(count) if count else "-",
    }


def _held_out(matrix: Matrix) -> dict[str, Any] | None:
    """The table of probes and the line about the text; None where nothing was evaluated."""
    held_out = matrix.held_out
    if held_out is None or not (held_out.probes or held_out.text):
        return None
    last = {c["task"]: c for c in matrix.cells if c["stage"] == len(matrix.R) - 1}
    rows = [
        {
            "name": name,
            "base": _shown(held_out.scores[0][at]),
            "last": _shown(held_out.scores[-1][at]),
            "change": _change(held_out.changes[at]),
            "relaxed": _shown(held_out.relaxed[-1][at]),
            "count": str(last.get(name, {}).get("n", "-")),
        }
        for at, name in enumerate(held_out.probes)
    ]
    return {"rows": rows, "change": _change(held_out.change), "text": held_out.text_line()}


def _change(change: Change | None) -> str:
    return shown(change) if change else "-"


def _shown(score: float | None) -> str:
    return "-" if score is None else f"{score:.1f}"


def _interval(cell: Mapping[str, Any], score: float | None) -> str:
    """95 %, questions taken as independent; empty for a score that is not the mean of its answers' (BLEU)."""
    count, error = cell.get("n"), cell.get("standard_error")
    if score is None or not count or ("score_rule" in cell and error is None and count > 1):
        return ""
    if count < FEWEST:
        return "too few questions"
    if cell.get("score_rule") in ABOVE_100:
        low, high = mean_interval(score, error or 0.0)
    else:
        low, high = share_interval(score, count)
    return f"{low:.1f} to {high:.1f}"


def _averages(matrix: Matrix) -> dict[str, str]:
    relaxed = matrix.relaxed
    return {
        "base": _shown(mean_or_none(matrix.R[0])),
        "last": _shown(mean_or_none(matrix.R[-1])),
        "relaxed": _shown(mean_or_none(relaxed[-1])) if relaxed else "-",
    }


def _experts(matrix: Matrix) -> dict[str, Any] | None:
    """Which expert answered, by task, after the last stage; None without experts."""
    last = len(matrix.R) - 1
    cells = [c for c in matrix.cells if c["stage"] == last and c["task"] in matrix.tasks]
    chosen = {c["task"]: c.get("experts") or {} for c in cells}
    found = {expert for counts in chosen.values() for expert in counts}
    if not found or len(found) > MOST_EXPERTS_SHOWN:
        return None
    # in the order of the tasks, so that right choices lie on the diagonal
    names = [t for t in matrix.tasks if t in found] + sorted(found - set(matrix.tasks))
    rows = [(task, [(name, chosen[task].get(name, 0)) for name in names]) for task in matrix.tasks if task in chosen]
    # a task that an earlier one's expert serves, or the base model, says so in `own_expert`
    own = {c["task"]: c.get("own_expert") or c["task"] for c in cells}
    total = sum(sum(counts.values()) for counts in chosen.values())
    right = sum(counts.get(own[task], 0) for task, counts in chosen.items())
    given = any(c.get("task_id") == "given" for c in cells)
    return {"names": names, "rows": rows, "own": own, "right": right, "total": total, "given": given}


def _metrics(matrix: Matrix, others: Sequence[Matrix]) -> dict[str, Any]:
    """Values as (title, text), and why others were not computed as (titles, reason)."""
    values, reasons = metrics_with_references(matrix, others), reasons_with_references(matrix, others)
    missing: dict[str, list[str]] = {}
    for name, value in values.items():
        if value is None:
            missing.setdefault(reasons.get(name, ""), []).append(METRIC_TITLES.get(name, name))
    return {
        "metrics": [(METRIC_TITLES.get(name, name), number(name, v)) for name, v in values.items() if v is not None],
        "not_computed": [(", ".join(titles), reason) for reason, titles in missing.items()],
        "in_short": ", ".join(
            f"{METRIC_TITLES[name]} {number(name, values[name])}" for name in IN_SHORT if values.get(name) is not None
        ),
    }


def _cost(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Costs that are known, as (name, text)."""
    shown = {
        "train_seconds": ("training", duration),
        "evaluate_seconds": ("answering", duration),
        "trained_parameters": ("trained parameters", "{:,}".format),
        "samples_trained": ("samples trained on", "{:,}".format),
        "stored_bytes": ("stored by the method", size),
        "stages_reused": ("stages reused from an identical run", "{:,}".format),
    }
    known = {key: cost[key] for key in shown if isinstance(cost.get(key), int | float)}
    return [(shown[key][0], shown[key][1](value)) for key, value in known.items() if value or key != "stages_reused"]


def _with_side(examples: Examples) -> Mapping[str, Any]:
    """Examples with what their column heads need."""
    experts = any(prediction.expert for row in examples.rows for prediction in (row.before, row.after))
    return {"all": examples, "experts": experts}


def _provenance(run: Path) -> list[tuple[str, str]]:
    """What the numbers depend on, as lines; a missing or damaged provenance is a line too, not an error."""
    try:
        provenance = read_json(run / "provenance.json")
    except (RunFolderError, OSError) as problem:
        return [("", str(problem))]
    if not isinstance(provenance, dict):
        return [("", f"{run / 'provenance.json'} is damaged")]
    lines = []
    for key, value in provenance.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        lines += [(f"{key} {part}".strip(), str(content)) for part, content in parts]
    return lines
