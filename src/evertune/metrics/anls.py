"""ANLS: how near a text that was read is to the text that stands there, by edit distance.

Average normalised Levenshtein similarity (Biten et al. 2019, arXiv 1905.13648): for ST-VQA, DocVQA and InfographicVQA.
"""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5


def anls(prediction: str, answers: Sequence[str]) -> float:
    """1 - distance / length of the longer text, of the nearest answer; 0 where half or more must be changed.

    Case does not count, nor how much white space stands between words.
    """
    said = _plain(prediction)
    return max((_similarity(said, _plain(answer)) for answer in answers), default=0.0) if said else 0.0


def edit_distance(one: str, other: str) -> int:
    """How many letters must be put in, taken out or exchanged (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        before, row = row, [i]
        for j, wanted in enumerate(other, start=1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted)))
    return row[-1]


def _similarity(said: str, gold: str) -> float:
    longer = max(len(said), len(gold))
    if abs(len(said) - len(gold)) >= THRESHOLD * longer:
        return 0.0  # so many letters must be put in at least: no need to count
    share = edit_distance(said, gold) / longer
    return 1 - share if share < THRESHOLD else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
