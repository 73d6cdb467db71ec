"""What the pairs of the analysis let us expect of a task before it is learned: two straight lines, and their errors.

`pairs.json` holds every ordered pair of the nine tasks of `pocket-b1`, learned by `tiny-aligned` without protection,
means over three seeds (`evertune pairs`, docs/analysis.md). Another model and other data forget otherwise: the error
says how far off a line is on tasks of that very world which it has not seen, so elsewhere it is the least to allow for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from evertune.utils.files import read_json

PAIRS = Path(__file__).with_name("pairs.json")
SMALL = Path(__file__).with_name("small.json")
"""Files of 20 to 200 rows, each taught to a base model with a floor of 200 optimizer steps (docs/service.md)."""


@dataclass(frozen=True, slots=True)
class Line:
    """y = intercept + slope · x, by least squares.

    Attributes:
        error: root mean square of what it misses by on pairs with a task that it was fitted without.
    """

    intercept: float
    slope: float
    error: float

    def at(self, x: float) -> float:
        """What it expects."""
        return self.intercept + self.slope * x

    def as_dict(self) -> dict[str, float]:
        """For machines."""
        return asdict(self)


@cache
def forgetting() -> Line:
    """Points of 100 that an earlier task loses, by the cosine between both tasks' instructions."""
    return fitted(read_json(PAIRS)["pairs"], "instruction", "forgetting")


@cache
def gain() -> Line:
    """Points that the new task gains, by its score before it is learned."""
    return fitted(read_json(PAIRS)["pairs"], "before", "gain")


@cache
def gain_of_small() -> Line:
    """Points that a small file gains, which is trained for more than one pass; all were at 0 before."""
    return fitted(read_json(SMALL)["pairs"], "before", "gain")


def fitted(pairs: Sequence[dict[str, Any]], x: str, y: str) -> Line:
    """The line through the columns `x` and `y` of some pairs, and its error leaving out one task after another."""
    first, slope = _least_squares(pairs, x, y)
    missed = []
    for task in sorted({pair["first"] for pair in pairs}):
        without = [pair for pair in pairs if task not in (pair["first"], pair["second"])]
        a, b = _least_squares(without, x, y)
        missed += [pair[y] - a - b * pair[x] for pair in pairs if task in (pair["first"], pair["second"])]
    return Line(first, slope, float(np.sqrt(np.mean(np.square(missed)))))


def _least_squares(pairs: Sequence[dict[str, Any]], x: str, y: str) -> tuple[float, float]:
    """Intercept and slope; a slope of 0 where x is always 0."""
    columns = np.array([(1.0, pair[x]) for pair in pairs])
    (intercept, slope), *_ = np.linalg.lstsq(columns, np.array([pair[y] for pair in pairs]), rcond=None)
    return float(intercept), float(slope)
