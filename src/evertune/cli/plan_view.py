"""Plans on the terminal: what is the same for all methods once, then a line per method, totals below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from evertune.cli.printing import show_note, show_text
from evertune.runs.runner import few_steps

if TYPE_CHECKING:
    from evertune.runs.plan.estimate import Estimate
    from evertune.runs.plan.outline import Outline, StagePlan
    from evertune.runs.plan.planner import Plan

TOTAL = "total"


def show_plans(console: Console, plans: Sequence[Plan]) -> None:
    """Stages, then what each method trains, takes and stores, measured on this machine."""
    from evertune.reporting.labels import duration
    from evertune.utils.sizes import size

    _show_stages(console, plans)
    header = ("method", "trained parameters", "steps", "training", "answering", "disk")
    rows = [
        (
            *_what_trains(made),
            duration(made.train_seconds),
            duration(made.evaluate_seconds),
            size(made.disk_bytes),
        )
        for made in plans
    ]
    seconds = sum(made.train_seconds for made in plans), sum(made.evaluate_seconds for made in plans)
    total = (TOTAL, "", f"{sum(s.steps for made in plans for s in made.stages):,}", *map(duration, seconds))
    _show_methods(console, header, rows, (*total, size(sum(made.disk_bytes for made in plans))))
    first = plans[0]
    threads = f"{first.threads} thread{'s' * (first.threads != 1)}"
    memory = size(max(made.peak_memory_bytes for made in plans))
    show_text(
        console,
        f"{first.dtype}, {threads}, {memory} of memory. Times are measured on this machine; answering takes at most "
        "that long",
    )
    stages = dict.fromkeys(stage for made in plans for stage in made.stages)
    encoding = duration(max(made.encode_seconds for made in plans))
    show_text(console, f"{first.features.choice}; encoding takes {encoding} where the cache has none")
    for warning in few_steps((stage.task, stage.steps, stage.samples) for stage in stages):
        show_note(console, warning)


def show_estimates(console: Console, plans: Sequence[Estimate]) -> None:
    """Stages, then what each method trains and stores, memory by part, and hours on each GPU."""
    from evertune.utils.sizes import size

    _show_stages(console, plans)
    header = ("method", "trained parameters", "steps", "per task", "a stage", "disk")
    rows = [
        (*_what_trains(made), size(made.per_task_bytes), size(made.stage_bytes), size(made.disk_bytes))
        for made in plans
    ]
    steps = f"{sum(stage.steps for made in plans for stage in made.stages):,}"
    _show_methods(console, header, rows, (TOTAL, "", steps, "", "", size(sum(made.disk_bytes for made in plans))))
    _show_memory(console, plans)
    _show_cards(console, plans)
    first = plans[0]
    show_text(
        console,
        f"An estimate for {first.model} in {first.dtype} from its configuration: {first.tokens['visual']} visual and "
        f"{first.tokens['text']} text tokens per sample; hours are encoding of images + training + answering",
    )
    show_text(console, first.features.choice)


def _show_stages(console: Console, plans: Sequence[Plan] | Sequence[Estimate]) -> None:
    """The stages; methods that share them share the table."""
    groups: dict[tuple[StagePlan, ...], list[str]] = {}
    for made in plans:
        groups.setdefault(tuple(made.stages), []).append(made.method)
    for stages, methods in groups.items():
        if len(groups) > 1:
            show_text(console, ", ".join(methods), style="bold")
        rows = [(s.task, f"{s.samples:,}", f"{s.steps:,}", f"{s.test:,}" if s.test else "-") for s in stages]
        sums = (sum(s.samples for s in stages), sum(s.steps for s in stages), sum(s.test for s in stages))
        total = (TOTAL, *_numbers(sums)) if len(stages) > 1 else None
        _print_table(console, ("stage", "training samples", "steps", "test samples"), rows, total)


def _show_methods(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str]) -> None:
    _print_table(console, header, rows, total if len(rows) > 1 else None)


def _show_memory(console: Console, plans: Sequence[Estimate]) -> None:
    parts = dict.fromkeys(part for made in plans for part in made.memory)
    rows = [(part, *(f"{made.memory.get(part, 0) / 1e9:.1f}" for made in plans)) for part in parts]
    total = (TOTAL, *(f"{sum(made.memory.values()) / 1e9:.1f}" for made in plans))
    _print_table(console, ("memory in GB", *(made.method for made in plans)), rows, total)


def _show_cards(console: Console, plans: Sequence[Estimate]) -> None:
    rows = []
    for cards in zip(*(made.cards for made in plans), strict=True):
        cells = [
            " + ".join(map(_hours, (c.encode_hours, c.train_hours, c.evaluate_hours))) if c.fits else "too small"
            for c in cards
        ]
        rows.append((cards[0].name, *cells))
    _print_table(console, ("hours on", *(made.method for made in plans)), rows, None)


def _print_table(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None
) -> None:
    from evertune.reporting.blocks import BlockTable

    console.print(BlockTable(header, rows, total=total))
    console.print()


def _numbers(values: Iterable[int]) -> list[str]:
    return [f"{value:,}" if value else "-" for value in values]


def _what_trains(made: Outline) -> tuple[str, str, str]:
    """Method, trained parameters and steps."""
    share = 100 * made.trained_parameters / made.all_parameters
    return made.method, f"{made.trained_parameters:,} ({share:.3g} %)", f"{sum(s.steps for s in made.stages):,}"


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
