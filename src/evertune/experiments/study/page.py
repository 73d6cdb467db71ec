"""One HTML file about a study; like a run's report it opens without a network and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from evertune.experiments.study.findings import FINAL, Comparison
from evertune.experiments.study.overview import overview_of
from evertune.experiments.study.result import Result, bootstrap_text, choice_lines, in_short, interval_text, why_not
from evertune.reporting.labels import METRIC_TITLES, duration, signed
from evertune.reporting.page import environment
from evertune.reporting.tables import notes_of, shown_columns
from evertune.utils.files import write_atomically


def write_page(result: Result, out: Path) -> Path:
    """Write the page about `result` to `out` and return `out`."""
    page = (
        environment(Path(__file__).parent)
        .get_template("study.html.j2")
        .render(
            study=result,
            findings=[(finding, in_short(finding), _lines(finding.comparisons)) for finding in result.findings],
            overview=overview_of(result.rows),
            streams=_streams(result),
            variants=_lines(result.variants),
            choices=choice_lines(result),
            titles=METRIC_TITLES,
            duration=duration,
        )
    )
    write_atomically(out, page.encode(errors="replace"))
    return out


def _lines(comparisons: Sequence[Comparison]) -> list[Mapping[str, Any]]:
    """The lines of a table of comparisons."""
    return [
        {
            "label": one.label if one.statistic == FINAL else f"{one.label}: {one.statistic}",
            "shown": interval_text(one),
            "bootstrap": bootstrap_text(one),
            "units": ", ".join(map(signed, one.differences)),
            "verdict": one.verdict(),
            "decides": one.decides,
            "why_not": why_not(one),
        }
        for one in comparisons
    ]


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
