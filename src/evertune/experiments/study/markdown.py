"""A study's result as Markdown for the docs: the same numbers and words as on its page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from evertune.experiments.study.findings import Comparison
from evertune.experiments.study.overview import overview_of
from evertune.experiments.study.result import Result, bootstrap_text, choice_lines, in_short, interval_text, why_not
from evertune.reporting.tables import as_markdown as rows_as_markdown

UNDER_FINDINGS = (
    "Mean paired differences with Student's 95 % interval, in points. Confirmed: the interval lies above zero; a "
    "finding is confirmed when each of its comparisons is. Contradicted, by one of k comparisons: its interval at the "
    "level 1 − 0.05/k lies below zero."
)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    rows = [header, rule, *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def as_markdown(result: Result) -> str:
    """Findings, their comparisons, a table per stream, variants, and the chosen settings."""
    parts = [_findings(result), _overview(result), *_streams(result)]
    if result.variants:
        lines = [[one.label, interval_text(one), why_not(one)] for one in result.variants]
        parts.append("Against the plain method, final average:\n\n" + _table(["variant", "difference", ""], lines))
    if result.choices:
        chosen = [
            [key, method, stream, f"**{value}**", means] for key, method, stream, value, means in choice_lines(result)
        ]
        parts.append(_table(["setting", "method", "stream", "chosen", "mean final average, held-out seeds"], chosen))
    parts += [f"Note: {note}." for note in result.notes]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _findings(result: Result) -> str:
    if not result.findings:
        return ""
    short = [[f.name, f.claim, f"**{f.verdict}**", in_short(f)] for f in result.findings]
    lines = [[f.name, *_comparison(one)] for f in result.findings for one in f.comparisons]
    return "\n\n".join(
        [
            _table(["", "claim", "here", ""], short),
            _table(["", "comparison", "measure", "difference", "bootstrap", "units", "verdict"], lines),
            UNDER_FINDINGS,
        ]
    )


def _overview(result: Result) -> str:
    if not result.rows:
        return ""
    overview = overview_of(result.rows)
    places = [f"{stream} from {model}" for stream, model in overview.places]
    table = _table(
        ["final average", *places],
        [[method, *values] for method, values, _ in overview.lines],
    )
    return f"{table}\n\n† Each task tuned alone: the mean of its score right after learning."


def _comparison(one: Comparison) -> list[str]:
    verdict = one.verdict() if one.decides else f"({one.verdict()})"
    return [one.label, one.statistic, interval_text(one), bootstrap_text(one), str(len(one.units)), verdict]


def _streams(result: Result) -> list[str]:
    groups = groupby(result.rows, key=lambda row: (row.stream, row.model))
    return [f"{stream} from {model}:\n\n{rows_as_markdown(list(rows))}" for (stream, model), rows in groups]
