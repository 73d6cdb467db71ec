"""The scoring rules by name: how a whole cell of R is scored, answer by answer, strictly and in any form.

A rule sees all answers of a cell at once, because CIDEr-D weighs words by all references. `docs/metrics.md` has the
formulas.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evertune.errors import unknown
from evertune.scoring import answers, vqa
from evertune.scoring.cider import cider

Score = Callable[[Sequence[str], Sequence[Sequence[str]]], list[float]]
"""Predictions and the references of each -> a score for each; 1 is 100 points."""
Compare = Callable[[str, Sequence[str]], float]


@dataclass(frozen=True, slots=True)
class Rule:
    """A scoring rule.

    Attributes:
        about: one line for `evertune show`.
        strict: what the matrix holds.
        tolerant: the same knowledge in any form.
    """

    name: str
    about: str
    strict: Score
    tolerant: Score


def each(compare: Compare) -> Score:
    """A rule for cells from a rule for single answers."""

    def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        return [compare(said, gold) for said, gold in zip(predictions, references, strict=True)]

    return score


RULES = {
    rule.name: rule
    for rule in (
        Rule("exact", "letter by letter", each(answers.exact), each(answers.tolerant)),
        Rule("vqa", "VQA soft accuracy over annotators", each(vqa.vqa), each(vqa.vqa_tolerant)),
        Rule("option", "letter of the option", each(answers.option), each(answers.option_letter)),
        Rule(
            "normalised",
            "equal to the first answer after VQA normalisation",
            each(vqa.first_normalised),
            each(vqa.first_contained),
        ),
        Rule("cider", "CIDEr-D x 100; may exceed 100", cider, cider),  # blind to case and marks already
    )
}


def rule_of(name: str) -> Rule:
    """The scoring rule called `name`.

    Raises:
        UserError: there is none; the message has the nearest name.
    """
    if name not in RULES:
        raise unknown("score", name, RULES)
    return RULES[name]


def error_of_mean(scores: Sequence[float]) -> float | None:
    """Standard error of a cell in points: 100 x sample standard deviation / sqrt(n); None for a single answer."""
    return 100 * statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None
