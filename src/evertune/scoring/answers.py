"""Scores of single answers, 0 to 1: strict as the task demands it, and tolerant of the answer's form.

Much of what looks like forgetting is a change of form ("The answer is red." for "red"): the two scores side by side
tell it from lost knowledge. An empty answer is never right.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

from evertune.errors import unknown

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation.replace("-", ""))

Score = Callable[[str, Sequence[str]], float]


def normalised(text: str) -> str:
    """Lower case, no punctuation but hyphens, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.casefold().translate(PUNCTUATION)).split())


def exact(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction is one of `answers` letter by letter, white space at the ends aside; else 0."""
    said = prediction.strip()
    return float(bool(said) and said in {a.strip() for a in answers})


def tolerant(prediction: str, answers: Sequence[str]) -> float:
    """1 when one of `answers` occurs in the prediction as whole words, after `normalised`; else 0."""
    said = f" {normalised(prediction)} "
    return float(any(wanted and f" {wanted} " in said for wanted in map(normalised, answers)))


SCORES: dict[str, Score] = {"exact": exact}


def score_of(name: str) -> Score:
    """The scoring rule called `name`."""
    if name not in SCORES:
        raise unknown("score", name, SCORES)
    return SCORES[name]
