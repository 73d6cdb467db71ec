"""Verdicts and histories on the terminal: what it gained, what it kept, what it lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evertune.metrics.statistics import FEWEST
from evertune.service.advice import Advice
from evertune.service.integrity import Finding
from evertune.service.lifecycle import BY_USER, LearnResult
from evertune.service.regression_report import Change, RegressionReport

COLOURS = {
    "gained": "green",
    "kept": "dim",
    "lost": "red",
    "too few questions": "yellow",
    "learned": "green",
    "not learned": "red",
}


def show_learned(console: Console, done: LearnResult, *, folder: str, data: str) -> None:
    """The verdict of a stage, and whether it was kept."""
    console.print()
    console.print(_table(done.verdict, since="before"))
    console.print(_summary(done.verdict))
    if done.broken:
        console.print(
            f"[red]rejected[/red]  {escape('; '.join(done.broken))}. The model is unchanged",
            highlight=False,
            soft_wrap=True,
        )
        if not done.verdict.learned:
            _advise(console, done, f"evertune learn {escape(folder)} {escape(data)}")
        return
    if not done.verdict.learned:
        console.print(
            f"[red]{escape(done.task)} is not learned[/red]: it did not gain more than chance would", highlight=False
        )
    console.print(f"[green]accepted[/green]  as stage {done.stage}", highlight=False, soft_wrap=True)
    console.print(
        f"[dim]undo: evertune rollback {escape(folder)} --to {done.stage - 1}[/dim]",
        highlight=False,
        soft_wrap=True,
    )


def _advise(console: Console, done: LearnResult, command: str) -> None:
    """What to do about a task that was not learned; longer training makes no questions."""
    if done.verdict.new is not None and done.verdict.new.few:
        lines = [
            f"add rows: at least {FEWEST} test questions on different images are needed; a fifth of the images of "
            "one file are kept for testing"
        ]
    else:
        lines = [
            f"train longer: {command} --set train.min_steps={2 * done.steps}",
            "a smaller gain shows on more test questions",
        ]
    for line in (*lines, "keep the stage all the same: --accept-if 'gain>=-100'"):
        console.print(f"[dim]{line}[/dim]", highlight=False, soft_wrap=True)


def show_advice(console: Console, found: Advice) -> None:
    """What a task resembles, and what learning it would cost."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("it knows")
    for title in ("similarity", "now", "loss"):
        table.add_column(title, justify="right")
    for near in found.neighbours:
        loss = "unknown" if near.forgetting_bound is None else f"at most {near.forgetting_bound:.1f}"
        table.add_row(escape(near.task), f"{near.similarity:.2f}", f"{near.score:.1f}", loss)
    console.print()
    if found.neighbours:
        console.print(table)
    lines = [
        f"{escape(found.task)}  {found.samples} samples; now {found.before:.1f} points",
        f"method  {found.choice.method}; {found.choice.why}"
        + (f"; replay {100 * found.choice.replay:.0f} %" if found.choice.replay else ""),
        f"cost  {found.steps} steps, about {_duration(found.seconds)} with its questions, "
        f"{found.stored_bytes / 1e6:.1f} MB on disk",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def show_check(console: Console, verdict: RegressionReport) -> None:
    """Every task against the best it ever was."""
    console.print()
    console.print(_table(verdict, since="best ever"))
    console.print(_summary(verdict))


def _table(verdict: RegressionReport, *, since: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("task", overflow="fold")  # only a name is broken where the terminal is narrow
    for title in ("questions", since, "now", "change", "95 % interval"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for change in verdict.others:
        _row(table, change)
    if verdict.new:
        _row(table, verdict.new, mark=" (new)")
    return table


def _row(table: Table, change: Change, *, mark: str = "") -> None:
    interval = f"{change.interval[0]:+.1f} to {change.interval[1]:+.1f}" if change.interval else "-"
    colour = COLOURS[change.word]
    table.add_row(
        escape(change.task) + mark,
        f"{change.questions}",
        f"{change.before:.1f}",
        f"{change.after:.1f}",
        f"{change.difference:+.1f}",
        interval,
        f"[{colour}]{change.word.removesuffix(' questions')}[/{colour}]",
    )


def _summary(verdict: RegressionReport) -> str:
    measures = verdict.measures()
    words = [f"average {measures['average']:.1f}"]
    if verdict.others:
        words += [f"forgetting {measures['forgetting']:.1f}", f"worst {measures['worst']:.1f}"]
    return f"[dim]{' · '.join(words)} points[/dim]"


def show_history(console: Console, events: Sequence[dict[str, Any]], *, folder: Path) -> None:
    """What happened, the oldest first."""
    if not events:
        console.print(f"{folder} has learned nothing yet", highlight=False, soft_wrap=True, markup=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("when", "stage", "what"):
        table.add_column(title)
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(event["time"]))
        if event["event"] == "stage":
            table.add_row(when, str(event["stage"]), escape(f"learned {event['task']}"))
        else:
            table.add_row(when, str(event["to"]), escape(_rolled_back(event)))
    console.print(table)


def _rolled_back(event: dict[str, Any]) -> str:
    tasks = ", ".join(event["tasks"])
    return (
        f"rolled back: removed {tasks}"
        if event["reason"] == BY_USER
        else f"rolled back: {tasks} rejected, {event['reason']}"
    )


def show_findings(
    console: Console, found: Sequence[Finding], left: Sequence[Finding], *, folder: Path, repaired: bool
) -> None:
    """What is wrong in a run folder, what was done about it, and what is left."""
    gone = [finding for finding in found if finding.path not in {other.path for other in left}]
    for finding in gone:
        console.print(
            f"[green]repaired[/green]  {escape(f'{finding.path} {finding.what}: {finding.remedy}')}", soft_wrap=True
        )
    for finding in left:
        remedy = (
            f"evertune doctor --repair: {finding.remedy}" if finding.remedy else "can't be made again from this folder"
        )
        console.print(f"[red]broken[/red]  {escape(f'{finding.path} {finding.what}. {remedy}')}", soft_wrap=True)
    if not left:
        console.print(f"{escape(str(folder))} is whole: every checksum is right", highlight=False, soft_wrap=True)
    elif not repaired and any(finding.remedy for finding in left):
        console.print(
            f"[dim]repair it: evertune doctor {escape(str(folder))} --repair[/dim]", highlight=False, soft_wrap=True
        )
