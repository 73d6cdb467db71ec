"""`--accept-if "forgetting<2 and gain>5"`: a condition on the regression report, parsed by a small grammar, never run
as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evertune.utils.errors import UserError, unknown

MEASURES = ("forgetting", "worst", "gain", "average")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PART = re.compile(r"\s*([a-z_]+)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class GateCondition:
    """All of its parts must hold: (measure, comparison, points)."""

    text: str
    parts: tuple[tuple[str, str, float], ...]

    def broken_by(self, measures: Mapping[str, float]) -> list[str]:
        """The parts that do not hold, with the measured values; empty if all hold."""
        return [
            f"{name} {measures[name]:.1f} is not {sign} {bound:g}"
            for name, sign, bound in self.parts
            if not _COMPARE[sign](measures[name], bound)
        ]


ANYTHING = GateCondition("", ())
"""The condition that always holds."""


def parsed(text: str) -> GateCondition:
    """Read a condition.

    Raises:
        UserError: the syntax is wrong; the message has an example.
    """
    parts = []
    for part in text.split(" and "):
        match = _PART.fullmatch(part)
        if match is None:
            raise UserError(
                f"--accept-if {text!r}: write it like 'forgetting<2 and gain>5'; {part.strip()!r} is no comparison"
            )
        name, sign, bound = match.groups()
        if name not in MEASURES:
            raise unknown("measure", name, MEASURES)
        parts.append((name, sign, float(bound)))
    return GateCondition(text.strip(), tuple(parts))
