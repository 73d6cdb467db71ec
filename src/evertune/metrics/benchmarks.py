"""The official scores of POPE, MME, MMBench and SEED-Bench, as their authors compute them.

An answer that is empty is never right, also where the authors' scripts read it as a yes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evertune.metrics.option_letters import letter_of

References = Sequence[Sequence[str]]
YES, NO = "yes", "no"
NEGATIONS = {"No", "not", "no"}


def pope_answer(prediction: str) -> str:
    """What POPE's `evaluate.py` takes a prediction for: no if its first sentence has No, not or no as a word, else yes.

    '' for an empty one.
    """
    first = prediction.split(".", maxsplit=1)[0].replace(",", "")
    if not prediction.strip():
        return ""
    return NO if NEGATIONS & set(first.split(" ")) else YES


def pope(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction means the label."""
    return float(pope_answer(prediction) == _label(answers))


class Counts(NamedTuple):
    """Yes is what is found: true and false positives, true and false negatives."""

    true_yes: int
    false_yes: int
    true_no: int
    false_no: int


def pope_counts(predictions: Sequence[str], references: References) -> Counts:
    """Over all questions; an empty prediction is a false answer of the other kind."""
    pairs = [
        (pope_answer(text) == _label(golds), _label(golds)) for text, golds in zip(predictions, references, strict=True)
    ]
    kinds = [(True, YES), (False, NO), (True, NO), (False, YES)]
    return Counts(*(pairs.count(kind) for kind in kinds))


def pope_f1(predictions: Sequence[str], references: References) -> float:
    """Harmonic mean of precision and recall of yes; 0 where no yes is right."""
    counts = pope_counts(predictions, references)
    wrong = counts.false_yes + counts.false_no
    return 2 * counts.true_yes / (2 * counts.true_yes + wrong) if counts.true_yes else 0.0


def yes_ratio(predictions: Sequence[str], references: References) -> float:
    """Share of the predictions that are a yes; near 0.5 where half of the labels are."""
    del references
    return sum(pope_answer(text) == YES for text in predictions) / len(predictions)


def mme_answer(prediction: str) -> str:
    """What MME's `calculation.py` takes a prediction for: yes or no among its first four characters, else other."""
    text = prediction.lower()
    if text in (YES, NO):
        return text
    first = text[:4]
    return YES if YES in first else NO if NO in first else "other"


def mme(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction means the label; the second of `answers` is the image."""
    return float(mme_answer(prediction.strip()) == _label(answers))


def mme_plus(predictions: Sequence[str], references: References) -> float:
    """acc+: the share of images of which every question is right."""
    return _all_right([mme(text, golds) for text, golds in zip(predictions, references, strict=True)], references)


def choice(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction names the letter of the option, in any form."""
    wanted = letter_of(answers[0])
    return float(wanted is not None and letter_of(prediction) == wanted)


def circular(predictions: Sequence[str], references: References) -> float:
    """MMBench's circular evaluation: the share of questions that are right in every order of their options."""
    return _all_right([choice(text, golds) for text, golds in zip(predictions, references, strict=True)], references)


def _all_right(scores: Sequence[float], references: References) -> float:
    """The share of groups without a wrong answer; the second answer of a sample names its group."""
    groups: dict[str, bool] = {}
    for at, (score, golds) in enumerate(zip(scores, references, strict=True)):
        group = golds[1] if len(golds) > 1 else f"row {at}"
        groups[group] = groups.get(group, True) and score == 1
    return sum(groups.values()) / len(groups)


def _label(answers: Sequence[str]) -> str:
    """POPE and MME: every label but no is a yes."""
    return NO if answers[0].strip().lower() == NO else YES
