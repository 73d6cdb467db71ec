"""What rescored answers look like in the terminal: our scores, theirs, and why they differ.

Apart from `compare`, which knows nothing of terminals.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from evertune.cli.printing import show_text
from evertune.reporting.blocks import plain_table
from evertune.tools.rescore.compare import RescoreResult, TheirScore
from evertune.utils.terminal import as_text

NUMBERS = ("score", "any form", "±", "points", "- ours", "answers")


def show_rescored(console: Console, result: RescoreResult) -> None:
    """Print everything that `result` says."""
    gaps = f", {result.missing:,} without an answer (counted as wrong)" if result.missing else ""
    empty = f", {result.empty:,} empty" if result.empty else ""
    show_text(console, f"{result.file}: {result.questions:,} questions{gaps}{empty} · format {result.format}")
    for table in [_ours(result), *([_theirs(result)] if result.theirs else [])]:
        console.print()
        console.print(table)
    for theirs in result.theirs:
        _differences(console, theirs, result.ours[0].rule)
    if result.reported:
        _reported(console, result)


def _table(*titles: str) -> Table:
    table = plain_table()
    for title in titles:
        is_number = title in NUMBERS
        table.add_column(title, justify="right" if is_number else "left", no_wrap=is_number)
    return table


def _ours(result: RescoreResult) -> Table:
    table = _table("our score", "score", "±", "any form", "what")
    for one in result.ours:
        error = "" if one.standard_error is None else f"{one.standard_error:.2f}"
        table.add_row(one.rule, f"{one.strict:.2f}", error, f"{one.relaxed:.2f}", as_text(one.about))
    return table


def _theirs(result: RescoreResult) -> Table:
    table = _table("their score", "score", "- ours", "whose", "what")
    for one in result.theirs:
        points = "-" if one.points is None else f"{one.points:.2f}"
        gap = "" if one.points is None or not one.differences else f"{one.points - result.ours[0].strict:+.2f}"
        table.add_row(one.name, points, gap, as_text(one.source), as_text(one.does))
    return table


def _differences(console: Console, theirs: TheirScore, rule: str) -> None:
    if theirs.problem:
        show_text(console, f"'{theirs.name}' can't be computed: {theirs.problem}")
    if not theirs.differences:
        return
    show_text(console, f"\nwhy '{theirs.name}' is not '{rule}'")
    table = _table("points", "answers", "why", "for example")
    for one in theirs.differences:
        table.add_row(f"{one.points:+.2f}", f"{one.answers:,}", as_text(one.why), as_text(one.example))
    console.print(table)


def _reported(console: Console, result: RescoreResult) -> None:
    values = ", ".join(f"{name} {value:g}" for name, value in result.reported.items())
    met = [one.name for one in result.theirs if one.reported]
    has_reported = any(one.reported is not None for one in result.theirs)
    verdict = f": met by '{met[0]}'" if met else ": met by none of theirs" if has_reported else ""
    show_text(console, f"\nResult.text reports {values}{verdict}")
    samples = result.reported.get("Samples")
    if samples is not None and samples != result.questions:
        show_text(console, f"it counts {samples:g} samples, there are {result.questions}")
