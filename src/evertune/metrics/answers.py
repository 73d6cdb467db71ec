"""Scores of single answers by their letters, 0 to 1: strict as the task demands it, and relaxed of the answer's form.

Much of what looks like forgetting is a change of form ("The answer is red." for "red"): the two scores side by side
tell it from lost knowledge. An empty answer is never right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from evertune.metrics.option_letters import has_letter, letter_of
from evertune.metrics.relaxed import stands_in

# What LLaVA's evaluation of ScienceQA takes for an option beside the bare letter; its pattern ends in any character.
LETTER_AND_TEXT = re.compile(r"([A-Z])\. ")
THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")


def exact(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction is one of `answers` exact match, white space at the ends aside; else 0."""
    predicted = prediction.strip()
    return float(bool(predicted) and predicted in {a.strip() for a in answers})


def relaxed(prediction: str, answers: Sequence[str]) -> float:
    """1 when one of `answers` stands in the prediction as whole words, its form aside (`relaxed`); else 0."""
    return float(any(stands_in(prediction, answer) for answer in answers))


def option(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction is the option in the form that is trained, case and white space at the ends aside."""
    predicted = prediction.strip().casefold()
    return float(bool(predicted) and predicted == answers[0].strip().casefold())


def option_letter(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction names the option's letter and no other: `b` for `(b)`, `B.`, `(b) dog`, `I think it is b`.

    `letters.letter_of` has the rule. "A dog" names no option: the article is no letter.
    """
    wanted = letter_of(answers[0])
    return float(wanted is not None and letter_of(prediction) == wanted)


def gqa(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction is the first answer; case, final periods and white space at the ends aside (GQA).

    The official script compares exact match; LLaVA's converter, which runs before it, does the rest.
    """
    predicted = prediction.strip().rstrip(".").lower()
    return float(bool(predicted) and predicted == answers[0].strip().lower())


def ocrvqa(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction is the first answer, case and white space at the ends aside (OCR-VQA)."""
    predicted = prediction.strip().lower()
    return float(bool(predicted) and predicted == answers[0].strip().lower())


def scienceqa(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction names the option in a form that LLaVA's evaluation of ScienceQA reads.

    `B`, `B. text`, or a single `The answer is B.` in a longer answer; capitals only.

    Args:
        prediction: the model's output.
        answers: the letter of the option; its text may follow, for the relaxed side.
    """
    predicted = _scienceqa_letter(prediction.strip())
    return float(predicted is not None and predicted.lower() == letter_of(answers[0]))


def scienceqa_relaxed(prediction: str, answers: Sequence[str]) -> float:
    """1 for the letter in any form (`option_letter`), or, where no letter stands alone, for the option's text."""
    return option_letter(prediction, answers) if has_letter(prediction) else relaxed(prediction, answers[1:])


def _scienceqa_letter(text: str) -> str | None:
    if len(text) == 1:
        return text if "A" <= text <= "Z" else None
    if found := LETTER_AND_TEXT.match(text):
        return found.group(1)
    named = THE_ANSWER_IS.findall(text)
    return named[0] if len(named) == 1 else None
