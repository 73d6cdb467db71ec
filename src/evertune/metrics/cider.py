"""CIDEr-D: how much of what people say about an image a caption says, words weighted by how telling they are.

Vedantam, Zitnick and Parikh 2015, arXiv 1411.5726; the arithmetic is that of the published code (`pycocoevalcap`),
whose scores run from 0 to 10. Captions are scored by it in TextCaps and Flickr30k.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from evertune.utils.errors import DataError

LONGEST = 4
SIGMA = 6.0
SCALE = 10.0
AS_TREEBANK = str.maketrans({"’": "'", "‘": "'", "€": "$", "£": "#"})
NOT = re.compile(r"(?<=\w)n't\b")
CLITIC = re.compile(r"(?<=\w)('(?:s|re|ve|ll|d|m))\b")
CONTRACTED = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(lem|gim)(me)\b")
ABBREVIATED = (
    "mr|mrs|ms|dr|st|vs|etc|jr|sr|ave|blvd|ft|mt|inc|co|corp|prof|gen|sgt|capt|lt"
    "|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)
TOKEN = re.compile(
    rf"""
    n't\b | '(?:s|re|ve|ll|d|m)\b
    | (?<!\w)'(?:\d\ds|em|til|cause)\b                                # '80s
    | (?:[^\W\d_]\.){{2,}}(?!\w) | (?<!\w)(?:[^\W\d_]\.)+[^\W\d_](?!\w)  # u.s.  p.m
    | (?<![\w.])(?:{ABBREVIATED}|[^\W\d_])\.(?!\w)                    # st.  b.
    | [\w.+-]{{1,64}}@[\w-]+(?:\.[\w-]+)+ | [@#][^\W\d]\w*              # bob@mail.com  #tag
    | https?://\S*[\w/]
    | (?<![\w.-])(?:[\w-]{{1,63}}\.)+(?:com|net|org|edu|gov)\b(?:/[\w/.-]*\w)?
    | (?<!\w)[-+]?\d*(?:[.,:]\d+)+                                    # 1,000  5:30  -5.5
    | (?<!\w)[-+]?\d+(?:/\d+)+ | (?<![\w-])[-+]\d+\b                  # 1/2  -5
    | (?<!\w)\w{{1,2}}&\w{{1,2}}(?!\w)                                    # at&t
    | \w+(?:[-/]\w+|(?<=[^\W\d])'[^\W\d]\w*)*(?:\+\+|\#)?             # t-shirt  and/or  o'clock  c++
    | [!?]{{2,}} | [%\#+=&*|\\~^@$<>°©®™/]
    """,
    re.VERBOSE,
)

MOST_CHARACTERS = 16 << 20
"""Of a cell's captions: the n-grams take 150 to 330 times as much memory. COCO's validation set has 11 million."""

Ngram = tuple[str, ...]


def tokenise(text: str) -> list[str]:
    """Words in lower case, in the manner of the Penn Treebank, without the Java tokeniser that the published code runs.

    `n't`, `'s`, `'ll` ... and signs like `%` and `&` are words of their own; words with hyphens, slashes or
    apostrophes, numbers like 1,000 and 5:30 and abbreviations like `p.m.` stay whole; brackets and punctuation are
    dropped. docs/metrics.md lists where the published tokeniser differs.
    """
    plain = text.lower().translate(AS_TREEBANK)
    plain = CONTRACTED.sub(lambda found: " ".join(part for part in found.groups() if part), plain)
    return TOKEN.findall(CLITIC.sub(r" \1", NOT.sub(" n't", plain)))


@dataclass(frozen=True, slots=True)
class _Vector:
    """tf-idf of a sentence's n-grams, one dictionary and norm per length; `length` counts bigrams, as published."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


@dataclass(frozen=True, slots=True)
class _References:
    """The references of a cell: their vectors, in how many images an n-gram occurs, and the log of all images."""

    golds: list[list[_Vector]]
    frequency: Counter[Ngram]
    images: float


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of every caption in a cell, 0 to 10 each; 1 is what the field prints as 100.

    Args:
        predictions: one caption per image.
        references: for each image its reference captions. All of them together decide how telling an n-gram is, so a
            score depends on the cell. Where every image has the same n-grams, nothing is telling: a cell of one
            image scores 0, as in the published code.

    Raises:
        DataError: a cell has more than `MOST_CHARACTERS`.
    """
    _refuse_long([predictions, *references])
    predicted = [tokenise(text) for text in predictions]
    golds = [[tokenise(text) for text in texts] for texts in references]
    return cider_of_tokens(predicted, golds)


def cider_of_tokens(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """`cider` of sentences that are lists of words already."""
    _refuse_long([*predictions, *(words for sentences in references for words in sentences)])
    known = _references(tuple(tuple(tuple(words) for words in sentences) for sentences in references))
    scores = []
    for words, golds in zip(predictions, known.golds, strict=True):
        hypothesis = _vector(ngrams(words), known.frequency, known.images)
        against = [_similarity(hypothesis, gold) for gold in golds]
        scores.append(SCALE * sum(against) / len(against))
    return scores


def _refuse_long(texts: Sequence[Sequence[str]]) -> None:
    characters = sum(len(text) for each in texts for text in each)
    if characters > MOST_CHARACTERS:
        raise DataError(
            f"the captions of one task have {characters:,} characters together; CIDEr takes at most "
            f"{MOST_CHARACTERS:,}, because of its memory: use a part of them (--limit, limit=...)"
        )


@lru_cache(maxsize=2)
def _references(references: tuple[tuple[tuple[str, ...], ...], ...]) -> _References:
    """Kept for a few cells: a task's references come back after every stage, and are most of the work."""
    golds = [[ngrams(words) for words in sentences] for sentences in references]
    frequency = Counter(ngram for sentences in golds for ngram in set().union(*sentences))
    images = math.log(max(1, len(references)))
    return _References([[_vector(gold, frequency, images) for gold in row] for row in golds], frequency, images)


def ngrams(words: Sequence[str]) -> Counter[Ngram]:
    """How often each n-gram of one to four words occurs."""
    return Counter(
        tuple(words[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(words) - n + 1)
    )


def _vector(counts: Counter[Ngram], frequency: Counter[Ngram], images: float) -> _Vector:
    """Count x (log images - log images with it); an n-gram that no reference has counts as one that one has."""
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(LONGEST))
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * (images - math.log(max(1, frequency[ngram])))
    norms = tuple(math.sqrt(sum(weight**2 for weight in part.values())) for part in weights)
    return _Vector(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """Mean over n of the clipped cosine, times the Gaussian penalty for a difference in length."""
    penalty = math.exp(-((hypothesis.length - reference.length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for predicted, gold, norm_predicted, norm_gold in zip(
        hypothesis.weights, reference.weights, hypothesis.norms, reference.norms, strict=True
    ):
        if norm_predicted and norm_gold:
            clipped = sum(
                min(weight, gold.get(ngram, 0.0)) * gold.get(ngram, 0.0) for ngram, weight in predicted.items()
            )
            total += clipped / (norm_predicted * norm_gold)
    return penalty * total / LONGEST
