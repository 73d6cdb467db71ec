"""VQA accuracy: soft agreement with several annotators, after the answers were brought into one form.

The field scores VQAv2, OKVQA, VizWiz and TextVQA by it, and GQA and OCR-VQA by equality after the same normalisation.
Rules and tables are those of the VQA evaluation (Antol et al. 2015, arXiv 1505.00468; visualqa.org/evaluation.html);
two variants differ in the normaliser: M4C's for TextVQA, and the one of the VizWiz challenge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from evertune.metrics.relaxed import normalised, stands_in

ANNOTATORS_NEEDED = 3
# Ten people answer each question, most of them with the same few words.
REMEMBERED = 50_000
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The published pattern means to spare periods after digits too, but its "(?!<=\d)" never applies.
PERIOD = re.compile(r"\.(?!\d)")
NUMBERS = dict(zip("zero one two three four five six seven eight nine ten".split(), map(str, range(11)), strict=True))
NUMBERS["none"] = "0"
HYPHEN_IN_WORD = re.compile(r"(?<=[^\W\d_])(?<!\de)-(?=\w)|(?<=\d)-(?=[^\W\d_])")
ARTICLES = {"a", "an", "the"}
# The forms of the published table; its keys are these with one apostrophe left out. Its capitalised keys ("Im") never
# apply, since words are in lower case by then.
CONTRACTIONS_SPELT = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    form[:place] + form[place + 1 :]: form
    for form in CONTRACTIONS_SPELT.split()
    for place, letter in enumerate(form)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the wrong way round in the published table


@lru_cache(maxsize=REMEMBERED)
def normalise(text: str) -> str:
    """An answer in the form in which VQA answers are compared: `Two dogs, running.` becomes `2 dogs running`.

    Punctuation goes (joined words come apart), then capitals and articles; number words become digits and contractions
    get their apostrophes. A text that consists of nothing else is left as it is, so that it equals itself only.
    """
    return reduced(text) or " ".join(text.lower().split())


@lru_cache(maxsize=REMEMBERED)
def reduced(text: str) -> str:
    """`normalise` as published: nothing is left of a text that consists of articles and punctuation only."""
    plain = without_punctuation(" ".join(text.split()))
    words = [NUMBERS.get(word, word) for word in plain.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=REMEMBERED)
def normalise_m4c(text: str) -> str:
    """`normalise` as M4C's evaluator does it: commas and `?` go first without a trace, `'s` is a word of its own.

    `red,blue` becomes `redblue` (`normalise`: `red blue`), `man's` becomes `man 's`. facebookresearch/mmf.
    """
    return normalise(m4c_words(text))


def m4c_words(text: str) -> str:
    """What M4C's evaluator does before anything else."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's")


def without_punctuation(text: str) -> str:
    """Drop a mark that stands beside a space, and all of them around a number like 1,000; others become a space."""
    dropped = COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if dropped or beside_space else " ")
    return PERIOD.sub("", result)


def vqa(prediction: str, answers: Sequence[str]) -> float:
    """Soft accuracy: the mean over annotators, each left out once, of min(1, agreeing others / 3).

    Args:
        prediction: the model's output.
        answers: one answer per annotator, usually ten. With fewer than four, all that are left must agree instead
            of three; a single one must be met exactly.
    """
    predicted = normalise(prediction)
    return agreement([normalise(answer) == predicted for answer in answers]) if predicted else 0.0


def textvqa(prediction: str, answers: Sequence[str]) -> float:
    """`vqa` after M4C's normalisation, as TextVQA is scored (Singh et al. 2019, arXiv 1904.08920)."""
    predicted = normalise_m4c(prediction)
    return agreement([normalise_m4c(answer) == predicted for answer in answers]) if predicted else 0.0


def vizwiz(prediction: str, answers: Sequence[str]) -> float:
    """`vqa` as the VizWiz challenge has it: the prediction is normalised, the annotators' answers are used as they are.

    An annotator's `two` can't be matched, because the prediction becomes `2` (Gurari et al. 2018, arXiv 1802.08218).
    """
    predicted = normalise(prediction)
    return agreement([answer.strip() == predicted for answer in answers]) if predicted else 0.0


def vqa_relaxed(prediction: str, answers: Sequence[str]) -> float:
    """`vqa` of the best answer that stands in the prediction as whole words, its form aside."""
    golds = [normalise(answer) for answer in answers]
    standing = {normalise(answer) for answer in set(answers) if stands_in(prediction, answer, form=_plain)}
    return max((agreement([gold == one for gold in golds]) for one in standing), default=0.0)


@lru_cache(maxsize=REMEMBERED)
def _plain(text: str) -> str:
    """The relaxed form with digits for number words; words with hyphens come apart, as in `normalise`."""
    words = HYPHEN_IN_WORD.sub(" ", normalised(text)).split()
    return " ".join(NUMBERS.get(word, word) for word in words)


def agreement(agrees: Sequence[bool]) -> float:
    """Mean over leave-one-out of min(1, agreeing others / 3), from whether each annotator agrees."""
    count, total = sum(agrees), len(agrees)
    if total == 1:
        return float(count)
    needed = min(ANNOTATORS_NEEDED, total - 1)
    left_out_agrees, left_out_differs = min(1.0, (count - 1) / needed), min(1.0, count / needed)
    return (count * left_out_agrees + (total - count) * left_out_differs) / total if count else 0.0


def first_normalised(prediction: str, answers: Sequence[str]) -> float:
    """1 when prediction and first answer are equal after `normalise`; else 0."""
    predicted = normalise(prediction)
    return float(bool(predicted) and predicted == normalise(answers[0]))


def first_contained(prediction: str, answers: Sequence[str]) -> float:
    """1 when the first answer stands in the prediction as whole words, its form aside; else 0."""
    return float(stands_in(prediction, answers[0], form=_plain))
