"""Whether a gold answer stands in a prediction, its form aside: the relaxed side of most rules.

Case, articles, punctuation and the sentence around it are form. Punctuation that makes another answer is not: `1.5` is
not `15`, `-5` not `5`, `C++` not `C`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from functools import lru_cache

from evertune.metrics.option_letters import ABBREVIATION, CACHED, ascii_marks, letter_of

ARTICLES = {"a", "an", "the"}
MARKS = f"[{re.escape(string.punctuation)}]"
THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)")
IN_WORD = re.compile(r"(?<=[^\W_])'(?=[^\W\d_])")
CURRENCY = re.compile(r"(?<!\w)\$(?=\.?\d)")
NO_ZERO = re.compile(r"(?<![\w.])\.(?=\d)")
PUNCTUATION = re.compile(
    rf"(?<=\d){MARKS}+(?=\d)"  # 1.5, 3:00, 1/2, 10-20
    r"|(?<=[^\W_])-(?=[^\W_])"  # t-shirt
    r"|(?<![\w-])-(?=\d)"  # -5
    r"|(?<=[^\W_])[+#]+(?!\w)"  # C++, F#, 18+
    r"|(?<=(?<![^\W_])[^\W\d_])-(?![\w-])"  # B-
    rf"|({MARKS})"
)
QUOTES, SENTENCE_END = "'\"`*_()[]{}<>", ".,;:!?"


@lru_cache(maxsize=CACHED)
def normalised(text: str) -> str:
    """Lower case and single spaces, without articles and without punctuation but such as makes another answer."""
    plain = ABBREVIATION.sub(lambda found: found[0].replace(".", ""), ascii_marks(text).casefold())
    plain = THOUSANDS.sub(lambda found: found[0].replace(",", ""), plain)
    plain = NO_ZERO.sub("0.", CURRENCY.sub("", IN_WORD.sub("", plain)))
    plain = PUNCTUATION.sub(lambda found: " " if found[1] else found[0], plain)
    return " ".join(word for word in plain.split() if word not in ARTICLES)


def stands_in(prediction: str, gold: str, *, form: Callable[[str], str] = normalised) -> bool:
    """Whether `gold` stands in `prediction` as whole words, both brought into `form`.

    A gold answer that is the letter of an option ("A"), or articles and punctuation only, is looked for as it is.
    """
    wanted = form(gold)
    if wanted in ("", "i"):
        return _stands_bare(prediction, gold)
    return f" {wanted} " in f" {form(prediction)} "


def _stands_bare(prediction: str, gold: str) -> bool:
    """`stands_in` for what is a word or a mark everywhere else: A and I as letters, others alone."""
    if letter := letter_of(gold):
        return letter_of(prediction) == letter
    predicted, wanted = (" ".join(ascii_marks(text).casefold().split()) for text in (prediction, gold))
    if any(sign.isalnum() for sign in wanted):
        return predicted.strip(string.punctuation + " ") == wanted.strip(string.punctuation + " ")
    return bool(wanted) and any(_is_alone(wanted, word) for word in predicted.split())


def _is_alone(wanted: str, word: str) -> bool:
    """Whether `wanted` is all of `word` but for quotes before it, and quotes and marks that end a sentence behind it.

    No regular expression: one tries every number of quotes, and compares `wanted` anew for each.
    """
    first = len(word.rstrip(QUOTES + SENTENCE_END)) - len(wanted)
    last = len(word) - len(word.lstrip(QUOTES))
    return wanted in word[max(first, 0) : last + len(wanted)]
