"""ANLS: how near a text that was read is to the text that stands there, by edit distance.

Average normalised Levenshtein similarity (Biten et al. 2019, arXiv 1905.13648): for ST-VQA, DocVQA and InfographicVQA.
"""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5
LONGEST = 10_000
"""Characters of a text: between longer ones only equality counts, since the time grows with the square."""


def anls(prediction: str, answers: Sequence[str]) -> float:
    """1 - distance / length of the longer text, of the nearest answer; 0 where half or more must be changed.

    Case does not count, nor how much white space stands between words.
    """
    predicted = _plain(prediction)
    return max((_similarity(predicted, _plain(answer)) for answer in answers), default=0.0) if predicted else 0.0


def edit_distance(one: str, other: str) -> int:
    """How many letters must be put in, taken out or exchanged (Levenshtein).

    Myers 1999, in the form of Hyyrö 2003: a column of the table is two numbers with a bit for each letter of `one`,
    whether the distance grows or falls there.
    """
    if not one:
        return len(other)
    whole, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    places: dict[str, int] = {}
    for place, letter in enumerate(one):
        places[letter] = places.get(letter, 0) | (1 << place)
    grows, falls, distance = whole, 0, len(one)
    for letter in other:
        equal = places.get(letter, 0) | falls
        diagonal = (((equal & grows) + grows) ^ grows) | equal
        up, down = falls | (whole & ~(diagonal | grows)), grows & diagonal
        distance += bool(up & last) - bool(down & last)
        up, down = (up << 1) | 1, down << 1
        grows, falls = (down | ~(diagonal | up)) & whole, up & diagonal & whole
    return distance


def _similarity(predicted: str, gold: str) -> float:
    longer = max(len(predicted), len(gold))
    if longer > LONGEST:
        return float(predicted == gold)
    if abs(len(predicted) - len(gold)) >= THRESHOLD * longer:
        return 0.0  # so many letters must be put in at least: no need to count
    share = edit_distance(predicted, gold) / longer
    return 1 - share if share < THRESHOLD else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
