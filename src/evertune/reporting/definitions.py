"""What the numbers of a page mean, each once, however many runs the page has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evertune.metrics.metrics import formulas
from evertune.reporting.labels import EXPLANATIONS, METRIC_TITLES
from evertune.reporting.matrix import Matrix


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """A metric in words; several formulas where some of the streams begin with known tasks and others don't."""

    title: str
    formulas: tuple[str, ...]
    explanation: str


@dataclass(frozen=True, slots=True)
class Definitions:
    """The metrics of a page, and which parts of it need an explanation.

    Attributes:
        known: whether a stream begins with known tasks.
        held_out: whether something was evaluated that no task trains.
        experts: whether a method has experts.
    """

    metrics: list[MetricDefinition]
    known: bool
    held_out: bool
    experts: bool


def definitions(matrices: Sequence[Matrix]) -> Definitions:
    """What a page about these runs must define."""
    found: dict[str, dict[str, None]] = {}
    for matrix in matrices:
        texts = formulas(known=len(matrix.known))
        for name in dict.fromkeys([*texts, *matrix.metrics]):
            found.setdefault(name, {})[texts.get(name) or matrix.formulas.get(name, "")] = None
    return Definitions(
        [MetricDefinition(METRIC_TITLES.get(n, n), tuple(f), EXPLANATIONS.get(n, "")) for n, f in found.items()],
        known=any(matrix.known for matrix in matrices),
        held_out=any(matrix.held_out is not None for matrix in matrices),
        experts=any(cell.get("experts") for matrix in matrices for cell in matrix.cells),
    )
