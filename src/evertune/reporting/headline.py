"""The headline of a comparison: who forgot how much, and between which bounds the methods lie."""

from __future__ import annotations

from collections.abc import Sequence

from evertune.reporting.tables import ComparisonRow

BOUND_NAMES = {
    "zero-shot": "the base model",
    "joint": "training on everything at once",
    "direct": "each task tuned alone",
}


def headline(rows: Sequence[ComparisonRow]) -> str:
    """One or two sentences on one setting: who forgot how much, and between which bounds they lie."""
    lost = [(row.method, value.mean) for row in rows if (value := row.values["forgetting"]) and _continual(row)]
    alike = all(points >= 0.5 for _, points in lost)  # then the verb need not be repeated
    first = "; ".join(_loss(name, points, place == 0, alike) for place, (name, points) in enumerate(lost))
    methods = [_named_value(row, row.method) for row in rows if _continual(row)]
    bounds = [_named_value(row, BOUND_NAMES[row.base]) for row in rows if not _continual(row)]
    main, aside = ", ".join(filter(None, methods)), "; ".join(filter(None, bounds))
    second = f"{main} ({aside})" if main and aside else main or aside
    finished = any(row.seeds for row in rows if row.base != "zero-shot")
    start = f"{first}{_seeds(rows)}. " if first else "" if finished else "No run is finished yet. "
    return f"{start}Average over all tasks{' at the end' if main else ''}: {second}."


def _named_value(row: ComparisonRow, name: str) -> str:
    value = row.values["learning_accuracy" if row.base == "direct" else "final_average"]
    return f"{name} {value.mean:.0f}" if value else ""


def _continual(row: ComparisonRow) -> bool:
    return row.base not in BOUND_NAMES


def _loss(method: str, points: float, whole: bool, alike: bool) -> str:
    """`sequential lost 41 points of what it had learned`, then `replay 12`; a gain is called one."""
    if points <= -0.5:
        return f"{method} gained {-points:.0f}" + (" points on what it had learned" if whole else "")
    amount = f"{points:.0f}" if points >= 0.5 else "less than 1"
    if not whole:
        return f"{method} {amount}" if alike else f"{method} lost {amount}"
    return f"{method} lost {amount} point{'' if amount in ('1', 'less than 1') else 's'} of what it had learned"


def _seeds(rows: Sequence[ComparisonRow]) -> str:
    most = max(len(row.seeds) for row in rows)
    return f" (means over up to {most} seeds)" if most > 1 else ""
