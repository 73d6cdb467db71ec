"""BLEU-1 to 4 and ROUGE-L of captions, in the arithmetic of the published code, without Java.

What `pycocoevalcap` computes once sentences are split into words; CIDEr-D has a file of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evertune.metrics.cider import LONGEST, Ngram, ngrams, tokenise

Words = Sequence[str]
OfTokens = Callable[[Sequence[Words], Sequence[Sequence[Words]]], list[float]]
WholeOfTokens = Callable[[Sequence[Words], Sequence[Sequence[Words]]], float]

# The published smoothing: it keeps a sentence without any 4-gram in common from dividing by or multiplying with 0.
TINY, SMALL = 1e-15, 1e-9
BETA = 1.2
LONGEST_TEXT = 10_000
"""Words of a text whose longest common subsequence is looked for."""


@dataclass(frozen=True, slots=True)
class Matches:
    """What BLEU counts in one caption: its length, that of the nearest reference, n-grams met and n-grams there are."""

    length: int
    reference: int
    met: tuple[int, ...]
    there: tuple[int, ...]


def bleu_of_tokens(order: int) -> OfTokens:
    """BLEU-`order` of every caption by itself, 0 to 1 (Papineni et al. 2002, with the published smoothing)."""

    def each(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
        pairs = zip(predictions, references, strict=True)
        return [_bleu([_matches(words, golds)], order) if words else 0.0 for words, golds in pairs]

    return each


def corpus_bleu_of_tokens(order: int) -> WholeOfTokens:
    """BLEU-`order` of a whole cell, 0 to 1: n-grams and lengths are added up first; not the mean over captions."""

    def whole(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
        pairs = zip(predictions, references, strict=True)
        return _bleu([_matches(words, golds) for words, golds in pairs], order)

    return whole


def rouge_l_of_tokens(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """ROUGE-L of every caption, 0 to 1 (Lin 2004): the longest common subsequence, F with beta 1.2.

    As in the published code precision and recall are each the best over references, not those of one reference.
    """
    return [_rouge_l(words, golds) for words, golds in zip(predictions, references, strict=True)]


def common_subsequence(one: Words, other: Words) -> int:
    """Length of the longest sequence of words that both have in this order, gaps allowed.

    Hyyrö 2004: a row of the table is a number with a bit for each word of `one`, 0 where the length grows. Of texts of
    more than `LONGEST_TEXT` words only equality counts: the time grows with the square.
    """
    if max(len(one), len(other)) > LONGEST_TEXT:
        return len(one) if list(one) == list(other) else 0
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | (1 << place)
    whole = (1 << len(one)) - 1
    row = whole
    for word in other:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & whole
    return len(one) - row.bit_count()


def tokenise_all(texts: Sequence[str]) -> list[list[str]]:
    """The words of every text, by `cider.tokenise`."""
    return [tokenise(text) for text in texts]


def _matches(words: Words, references: Sequence[Words]) -> Matches:
    nearest = min((abs(len(reference) - len(words)), len(reference)) for reference in references)[1]
    most: Counter[Ngram] = Counter()
    for reference in references:
        most |= ngrams(reference)
    met = [0] * LONGEST
    for ngram, count in ngrams(words).items():
        met[len(ngram) - 1] += min(count, most[ngram])
    there = tuple(max(0, len(words) - n) for n in range(LONGEST))
    return Matches(len(words), nearest, tuple(met), there)


def _bleu(parts: Sequence[Matches], order: int) -> float:
    """Geometric mean of the shares of n-grams met, times the penalty for being shorter than the references."""
    product = 1.0
    for n in range(order):
        product *= (sum(part.met[n] for part in parts) + TINY) / (sum(part.there[n] for part in parts) + SMALL)
    length, reference = sum(part.length for part in parts), sum(part.reference for part in parts)
    ratio = (length + TINY) / (reference + SMALL)
    return math.pow(product, 1 / order) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def _rouge_l(words: Words, references: Sequence[Words]) -> float:
    common = [common_subsequence(words, reference) for reference in references]
    precision = max((count / len(words) for count in common if words), default=0.0)
    recall = max((count / len(gold) for count, gold in zip(common, references, strict=True) if gold), default=0.0)
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
