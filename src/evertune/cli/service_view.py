"""Verdicts and histories on the terminal: what it gained, what it kept, what it lost."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evertune.cli.printing import show_facts, show_labelled, show_text, show_value
from evertune.metrics.statistics import FEWEST
from evertune.reporting.blocks import BlockTable, plain_table
from evertune.reporting.labels import duration, signed
from evertune.service.advice import Advice
from evertune.service.integrity import Finding
from evertune.service.lifecycle import BY_USER, LearnResult
from evertune.service.regression_report import Change, RegressionReport
from evertune.utils.sizes import size
from evertune.utils.terminal import as_text

COLOURS = {
    "gained": "green",
    "kept": "dim",
    "lost": "red",
    "too few questions": "yellow",
    "learned": "green",
    "not learned": "red",
}


def show_learned(console: Console, done: LearnResult, *, folder: str, data: str, asks: bool = False) -> None:
    """The verdict of a stage, and whether it was kept; `asks`: the user decides that about a task not learned."""
    console.print()
    console.print(_table(done.verdict, since="before"))
    console.print(_summary(done.verdict))
    if done.broken:
        show_text(console, Text.assemble(("rejected", "red"), f"  {'; '.join(done.broken)}. The model is unchanged"))
        if not done.verdict.learned:
            _advise(console, done, shlex.join(["evertune", "learn", folder, data]))
        return
    if not done.verdict.learned:
        why = ": it did not gain more than chance would"
        show_text(console, Text.assemble((f"{done.task} is not learned", "red"), why))
    if done.verdict.learned or not asks:
        show_accepted(console, folder=folder, stage=done.stage)


def show_accepted(console: Console, *, folder: str, stage: int) -> None:
    """Which stage it is, and how to undo it."""
    show_text(console, Text.assemble(("accepted", "green"), f"  as stage {stage}"))
    show_value(console, "undo", shlex.join(["evertune", "rollback", folder, "--to", str(stage - 1)]), style="dim")


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
        show_text(console, line, style="dim")


def show_advice(console: Console, found: Advice) -> None:
    """What a task resembles, and what learning it would cost."""
    rows = [
        (
            near.task,
            f"{near.similarity:.2f}",
            f"{near.score:.1f}",
            "unknown" if near.forgetting_bound is None else f"at most {near.forgetting_bound:.1f}",
        )
        for near in found.neighbours
    ]
    console.print()
    if rows:
        console.print(BlockTable(("learned task", "similarity", "now", "points lost"), rows))
        console.print()
    replay = f"; replay {100 * found.choice.replay:.0f} %" if found.choice.replay else ""
    facts = {
        "samples": f"{found.samples:,}",
        "now": f"{found.before:.1f} points",
        "method": f"{found.choice.method}; {found.choice.why}{replay}",
        "training": f"{found.steps:,} steps",
        "time": f"about {duration(found.seconds)}, with answering",
        "disk": size(found.stored_bytes),
    }
    show_facts(console, found.task, facts)


def show_check(console: Console, verdict: RegressionReport) -> None:
    """Every task against the best it ever was."""
    console.print()
    console.print(_table(verdict, since="best ever"))
    console.print(_summary(verdict))


def _table(verdict: RegressionReport, *, since: str) -> Table:
    table = plain_table()
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
    interval = " to ".join(map(signed, change.interval)) if change.interval else "-"
    colour = COLOURS[change.word]
    table.add_row(
        as_text(change.task + mark),
        f"{change.questions:,}",
        f"{change.before:.1f}",
        f"{change.after:.1f}",
        signed(change.difference),
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
        show_text(console, f"{folder} has learned nothing yet")
        return
    rows = []
    for event in events:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(event["time"]))
        if event["event"] == "stage":
            rows.append((when, str(event["stage"]), f"learned {event['task']}"))
        elif event["event"] == "forget":
            rows.append((when, str(event["to"] + len(event.get("later", ()))), f"forgot {event['task']}"))
        else:
            rows.append((when, str(event["to"]), _rolled_back(event)))
    console.print(BlockTable(("when", "stage", "what"), rows, texts=1))


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
        show_labelled(console, "repaired", f"{finding.path} {finding.what}", style="green", indent=10)
        show_text(console, finding.remedy, style="dim", indent=10)
    for finding in left:
        remedy = f"can be repaired: {finding.remedy}" if finding.remedy else "can't be made again from this folder"
        show_labelled(console, "broken", f"{finding.path} {finding.what}", style="red", indent=10)
        show_text(console, remedy, style="dim", indent=10)
    if not left:
        show_text(console, f"{folder} is whole: every checksum is right")
        return
    able = sum(bool(finding.remedy) for finding in left)
    show_text(console, f"{len(left)} broken, {able or 'none'} of them can be repaired")
    if able and not repaired:
        show_value(console, "repair", shlex.join(["evertune", "doctor", str(folder), "--repair"]), style="dim")
