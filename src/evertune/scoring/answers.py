"""Scores of single answers by their letters, 0 to 1: strict as the task demands it, and tolerant of the answer's form.

Much of what looks like forgetting is a change of form ("The answer is red." for "red"): the two scores side by side
tell it from lost knowledge. An empty answer is never right.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation.replace("-", ""))

# A letter by itself; not the "t" of "don't".
IN_BRACKETS = re.compile(r"\(([a-z])\)")
ALONE = re.compile(r"(?<![\w'’])([a-z])(?![\w'’])")


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


def option(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction is the option in the form that is taught, case and white space at the ends aside."""
    said = prediction.strip().casefold()
    return float(bool(said) and said == answers[0].strip().casefold())


def option_letter(prediction: str, answers: Sequence[str]) -> float:
    """1 when the first letter that stands alone is the option's: `b` for `(b)`, `B.`, `(b) dog`, `I think (b)`.

    A letter in brackets comes before a bare one. "a dog" counts as the option `a`: an article can't be told from it.
    """
    wanted = letter_of(answers[0])
    return float(wanted is not None and letter_of(prediction) == wanted)


def letter_of(text: str) -> str | None:
    """The first letter in brackets, else the first that stands alone, in lower case; None when there is none."""
    found = IN_BRACKETS.search(text.casefold()) or ALONE.search(text.casefold())
    return found.group(1) if found else None
