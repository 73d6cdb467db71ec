"""What a leaderboard filters and groups by: properties that methods declare, and settings without defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from evertune.methods import METHODS, make_methods, options_of, parts_of
from evertune.reporting.matrix import Matrix
from evertune.reporting.variants import settings_of
from evertune.training.loop import Training
from evertune.utils.config_io import value_text
from evertune.utils.errors import UserError

OF_BENCHMARK = ("limit", "evaluation.limit")
"""Settings that change every score: runs with others are another benchmark."""


@dataclass(frozen=True, slots=True)
class Properties:
    """Of a run's methods together; None where a method or an option is not known here.

    Attributes:
        reference: a bound on what methods reach, not a method of continual learning.
        baseline: plain tuning.
        problem: why something is not known; empty where all is.
    """

    stores_samples: bool | None = None
    needs_task_id: bool | None = None
    reference: bool = False
    baseline: bool = False
    problem: str = ""


def properties_of(matrix: Matrix) -> Properties:
    """Of the methods of a run. `kind` tells what they keep, `needs_task_id` what they receive at test time."""
    try:
        kinds = {METHODS[name].about.kind for name in parts_of(matrix.method)}
    except UserError as problem:
        return Properties(problem=str(problem))
    stores, reference, baseline = "replay" in kinds, "bound" in kinds, "baseline" in kinds
    options: Any = matrix.settings.get("options")
    try:
        given = any(method.needs_task_id() for method in make_methods(matrix.method, options))
    except UserError as problem:
        return Properties(stores, None, reference, baseline, str(problem))
    return Properties(stores, given, reference, baseline)


def own_settings(matrix: Matrix) -> dict[str, str]:
    """The settings that make a line what it is, as text: without defaults, so that files of several versions agree.

    Left out are also how many questions are evaluated (`OF_BENCHMARK`) and how many at once.
    """
    defaults = _defaults(matrix.method)
    found = {key: value for key, value in settings_of(matrix).items() if value is not None}
    own = {key: value for key, value in found.items() if key not in defaults or defaults[key] != value}
    left_out = (*OF_BENCHMARK, "evaluation.batch_size")
    return {key: value_text(value) for key, value in own.items() if key not in left_out}


def _defaults(method: str) -> dict[str, Any]:
    found = {f"train.{key}": value for key, value in asdict(Training()).items()}
    for name in (name for name in method.split("+") if name in METHODS):
        found |= {f"{name}.{option}": parameter.default for option, parameter in options_of(name).items()}
    return found
