"""The settings that a study chooses, by the rules of docs/grid.md and docs/study.md, and the runs that take them.

`best`: the value with the highest mean final average over the held-out seeds; of equal ones the first listed.
`plastic`: the largest value whose mean learning accuracy is within `PLASTIC` points of the highest, for learning rates.
Nothing is chosen before every listed value has been tried with every seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evertune.experiments.grid import Cell
from evertune.experiments.grid.cells import VARIED_FOR_ALL, method_parts
from evertune.experiments.study.file import StudyGrid
from evertune.reporting.curves import BY, Curve, Point, curves
from evertune.reporting.matrix import Matrix
from evertune.runs.config import RunConfig
from evertune.utils.config_io import validated, value_text
from evertune.utils.errors import UserError

PLASTIC = 1.0
"""Points of learning accuracy that a larger rate may cost under the rule `plastic`."""
LEARNING, BASE = "learning_accuracy", "zero_shot"


@dataclass(frozen=True, slots=True)
class ChosenValue:
    """A chosen value.

    Attributes:
        grid: where it was chosen.
        base: the stream, or the one that it is the reverse of.
        at_edge: it is the first or the last of several listed values: the best may lie outside.
        means: (value, mean over the seeds of what decides by the grid's rule: final average, or learning accuracy).
    """

    grid: str
    base: str
    model: str
    method: str
    key: str
    value: Any
    at_edge: bool
    seeds: tuple[int, ...]
    means: tuple[tuple[Any, float], ...]


def choices_of(grid: StudyGrid, runs: Sequence[Matrix], *, bases: Mapping[str, str]) -> list[ChosenValue]:
    """What `grid` chooses from its finished runs; curves that are not complete choose nothing.

    Args:
        grid: which varies something.
        runs: its finished runs.
        bases: the `base_stream` of every stream, by its name.
    """
    found = []
    for key in grid.vary:
        for curve in curves(runs, key):
            if curve.best and is_complete(curve, grid):
                best = curve.best if grid.rule == "best" else _plastic(curve, runs)
                found.append(_choice(curve, grid, best, base=bases[curve.stream]))
    return found


def _plastic(curve: Curve, runs: Sequence[Matrix]) -> Point:
    """The largest value within `PLASTIC` points of the best learning accuracy.

    Raises:
        UserError: nothing is learned at any of the values.
    """
    means = {point.value: _mean(point, LEARNING) for point in curve.points}
    best = max(means.values())
    base = max(run.metrics[BASE] or 0.0 for run in runs if (run.stream, run.model) == (curve.stream, curve.model))
    if best < base + PLASTIC:
        shown = ", ".join(f"{value_text(value)}: {mean:.1f}" for value, mean in means.items())
        raise UserError(
            f"{curve.method} does not learn {curve.stream} from {curve.model} at any listed {curve.key} (learning "
            f"accuracy {shown}; the base model has {base:.1f}), so none is a regime; list other values"
        )
    return max((point for point in curve.points if means[point.value] >= best - PLASTIC), key=lambda point: point.value)


def _mean(point: Point, metric: str) -> float:
    spread = point.spreads[metric]
    return spread.mean if spread else float("-inf")


def is_complete(curve: Curve, grid: StudyGrid) -> bool:
    """Whether every listed value was tried with every seed."""
    seeds = tuple(sorted(grid.seeds))
    return len(curve.points) == len(grid.vary[curve.key]) and all(point.seeds == seeds for point in curve.points)


def _choice(curve: Curve, grid: StudyGrid, best: Point, *, base: str) -> ChosenValue:
    decides = BY if grid.rule == "best" else LEARNING
    means = tuple((point.value, spread.mean) for point in curve.points if (spread := point.spreads[decides]))
    return ChosenValue(
        grid=grid.name,
        base=base,
        model=curve.model,
        method=curve.method,
        key=curve.key,
        value=best.value,
        at_edge=best in (curve.points[0], curve.points[-1]),
        seeds=best.seeds,
        means=means,
    )


def with_choices(
    cell: Cell, grid: StudyGrid, *, base: str, sources: Sequence[StudyGrid], chosen: Sequence[ChosenValue]
) -> Cell:
    """The run `cell` of `grid` with the values that were chosen for its method, on its stream or the reverse of it.

    The model does not matter: another start learns with the settings of the stream, so that only the start differs.

    Args:
        cell: as the grid says it.
        grid: which it belongs to.
        base: `base_stream` of its stream.
        sources: all grids of the study.
        chosen: what they have chosen so far.

    Raises:
        UserError: a value is not chosen yet; the message names it.
    """
    values: dict[str, Any] = {}
    for source in (one for one in sources if one.name in grid.take):
        for method, key in source.choosing_for(cell.config.method):
            if key in values:
                raise UserError(f"{grid.name}: {cell.config.method} takes {key} from two places: take it from one")
            values[key] = _value((source.name, base, method, key), source.seeds, chosen)
    return replace(cell, config=_with_settings(cell.config, values, where=cell.name)) if values else cell


def _value(wanted: tuple[str, str, str, str], seeds: Sequence[int], chosen: Sequence[ChosenValue]) -> Any:
    """The value of the choice that was made in a grid, on a stream, with a method, of a setting."""
    for choice in chosen:
        if (choice.grid, choice.base, choice.method, choice.key) == wanted:
            return choice.value
    grid, base, method, key = wanted
    raise UserError(
        f"{key} of {method} on {base} is not chosen yet: '{grid}' lacks runs with seeds {', '.join(map(str, seeds))}; "
        f"finish that part first (a run counts only with today's options of {method}, those added since included)"
    )


def _with_settings(config: RunConfig, values: Mapping[str, Any], *, where: str) -> RunConfig:
    """The configuration with `METHOD.OPTION` or `train.SETTING` set."""
    content = config.model_dump()
    for key, value in values.items():
        head, _, option = key.partition(".")
        if head not in (*VARIED_FOR_ALL, *method_parts(config.method)):
            raise UserError(f"{where}: {key} is no setting of {config.method}")
        home = content if head in VARIED_FOR_ALL else content["options"]
        home[head] = {**home.get(head, {}), option: value}
    return validated(RunConfig, content, where=where)
