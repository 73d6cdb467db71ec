"""The values that methods logged in training, by stage: from the logs of the stages (`stages/*/training.jsonl`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.utils.errors import UserError
from evertune.utils.files import read_text
from evertune.utils.parsing import json_value, written_lines

MOST_NAMES = 40


@dataclass(frozen=True, slots=True)
class LoggedValues:
    """A table: for each `METHOD/NAME` the mean over the steps of each stage, as text; "-" where there is none."""

    stages: list[str]
    rows: list[tuple[str, list[str]]]


def logged_values(run: Path) -> LoggedValues | None:
    """What the methods of a run logged; None where they logged nothing, or the logs can't be read."""
    logs = sorted((run / "stages").glob("*-*/training.jsonl"))
    means = [_means(path) for path in logs]
    names = sorted({name for each in means for name in each})[:MOST_NAMES]
    if not names:
        return None
    stages = [path.parent.name.partition("-")[2] for path in logs]
    return LoggedValues(stages, [(name, [_shown(each.get(name)) for each in means]) for name in names])


def _means(path: Path) -> dict[str, float]:
    """Mean of each logged value over the steps that have it; none of a log that is damaged, which `doctor` says."""
    values: dict[str, list[float]] = {}
    try:
        for _, line in written_lines(read_text(path)):
            for name, value in _logged(json_value(line)).items():
                values.setdefault(name, []).append(value)
    except (UserError, ValueError, OSError):
        return {}
    return {name: sum(each) / len(each) for name, each in values.items()}


def _logged(row: Any) -> dict[str, float]:
    """The values of methods in a row: their names have a stroke."""
    items = row.items() if isinstance(row, dict) else ()
    return {name: value for name, value in items if "/" in name and type(value) in (int, float)}


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
