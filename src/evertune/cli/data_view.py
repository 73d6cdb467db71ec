"""What the commands about data print: a table of tasks, findings by weight, one sentence at the end."""

from __future__ import annotations

import yaml
from rich.console import Console

from evertune.cli.printing import show_text, show_value
from evertune.data.issues import SHOWN, Issues
from evertune.reporting.blocks import BlockTable
from evertune.tools.data.check import CheckResult
from evertune.tools.data.convert import ConversionResult

TITLES = {
    "error": "errors: what can't be used",
    "warning": "warnings: what may cost a result its meaning",
    "note": "notes",
}
COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


def show_checked(console: Console, checked: CheckResult) -> None:
    """Tasks, findings, and what they mean."""
    if checked.halves:
        show_text(console, f"{checked.stream}\n")
        console.print(_table(checked))
        console.print()
    for level, problems in checked.levels():
        if len(problems):
            _show(console, level, problems)
    show_text(console, _conclusion(checked))


def _table(checked: CheckResult) -> BlockTable:
    tasks = checked.tasks()
    rows = [(name, *(_count(counts[key]) for key in ("train", "test", "images"))) for name, counts in tasks.items()]
    sums = (_count(sum(counts[split] for counts in tasks.values())) for split in ("train", "test"))
    total = ("total", *sums, "")  # tasks may share images
    header = ("task", "training rows", "test rows", "images")
    return BlockTable(header, rows, total=total if len(rows) > 1 else None)


def _count(count: int) -> str:
    return f"{count:,}" if count else "-"


def _show(console: Console, level: str, problems: Issues) -> None:
    console.print(f"[{COLOURS[level]}]{TITLES[level]}[/{COLOURS[level]}]")
    for kind, count, messages in problems.kinds():
        show_text(console, f"{kind}: {count:,}", indent=2)
        for _, message in messages[:SHOWN]:
            show_text(console, printable(message), indent=4)
        if count > SHOWN:
            show_text(console, f"and {count - SHOWN:,} more", indent=4)
    console.print()


def _conclusion(checked: CheckResult) -> str:
    counts = {level: len(problems) for level, problems in checked.levels()}
    text = ", ".join(f"{count:,} {level}{'s' * (count != 1)}" for level, count in counts.items())
    rest = "; evertune run --skip-invalid would train on the rest" if checked.leaves_a_rest else ""
    text += f". A run would stop{rest}." if counts["error"] else "."
    return text if checked.decode else f"{text} Images were not opened."


def show_written(console: Console, written: ConversionResult) -> None:
    """How many rows, what could not be kept, and the task as a YAML would name it."""
    show_value(console, f"{written.rows:,} row{'s' * (written.rows != 1)}", printable(str(written.target)))
    for kind, count in written.skipped.counts.items():
        show_text(console, f"left out: {kind}: {count:,}")
    for what, count in written.lost.items():
        show_text(console, f"not kept: {what}, of {count:,} rows")
    if written.numbered:
        show_text(console, "ids repeat in the source: rows are called by their numbers")
    if written.record:
        show_value(console, "record of the draw", printable(str(written.record)))
    text = yaml.safe_dump(written.entry, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    show_value(console, "in a stream's YAML", text.strip())


def printable(text: str) -> str:
    """A message as a terminal can show it: what would move its cursor or turn its writing round is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
