"""One HTML file about a study; like a run's report it opens without a network and runs no script."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from evertune.experiments.study.findings import FINAL, Comparison
from evertune.experiments.study.overview import overview_of
from evertune.experiments.study.plots import Scale, axis, scale_for, strip, tuning_curve
from evertune.experiments.study.result import Result, in_short, interval_text, why_not
from evertune.reporting.labels import METRIC_TITLES, duration
from evertune.reporting.page import environment
from evertune.reporting.tables import notes_of, shown_columns
from evertune.utils.config_io import value_text
from evertune.utils.files import write_atomically


def write_page(result: Result, out: Path) -> Path:
    """Write the page about `result` to `out` and return `out`."""
    page = (
        environment(Path(__file__).parent)
        .get_template("study.html.j2")
        .render(
            study=result,
            findings=[
                _finding(finding.name, finding.claim, finding.comparisons)
                | {"verdict": finding.verdict, "short": in_short(finding)}
                for finding in result.findings
            ],
            overview=overview_of(result.rows),
            streams=_streams(result),
            variants=_comparisons(result.variants),
            curves=_curves(result),
            titles=METRIC_TITLES,
            duration=duration,
        )
    )
    write_atomically(out, page.encode(errors="replace"))
    return out


def _finding(name: str, claim: str, comparisons: tuple[Comparison, ...]) -> dict[str, Any]:
    return {"name": name, "claim": claim, **_comparisons(comparisons)}


def _comparisons(comparisons: Any) -> dict[str, Any]:
    """The lines of a table of comparisons, on one scale."""
    scale = scale_for(comparisons)
    return {"lines": [_line(one, scale) for one in comparisons], "axis": axis(scale)}


def _line(one: Comparison, scale: Scale) -> Mapping[str, Any]:
    return {
        "label": one.label if one.statistic == FINAL else f"{one.label}: {one.statistic}",
        "shown": interval_text(one),
        "strip": strip(one, scale),
        "units": len(one.units),
        "verdict": one.verdict(),
        "decides": one.decides,
        "why_not": why_not(one),
    }


def _streams(result: Result) -> list[dict[str, Any]]:
    groups = groupby(result.rows, key=lambda row: (row.stream, row.model))
    return [
        {
            "stream": stream,
            "model": model,
            "rows": (rows := list(found)),
            "columns": shown_columns(rows),
            "notes": notes_of(rows),
        }
        for (stream, model), found in groups
    ]


def _curves(result: Result) -> list[dict[str, Any]]:
    """One image per curve, with what was chosen on it."""
    drawn = []
    for grid, curve in result.curves:
        same = [
            c
            for c in result.choices
            if (c.grid, c.model, c.method, c.key) == (grid, curve.model, curve.method, curve.key)
        ]
        choice = next(iter(same), None)
        chosen = f"chosen: {value_text(choice.value)}" if choice else "undecided: not every value has all its seeds"
        title = f"{curve.method} on {curve.stream}"
        drawn.append({"title": title, "image": tuning_curve(curve, choice), "chosen": chosen})
    return drawn
