"""Their way: how public evaluators score, defects included, as small functions on one question each.

Written from what their scripts do, so that a published number can be met and its difference from ours be named. Nothing
here is a score of ours. Every function gives 0 to 1 for a question that has an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evertune.metrics import boxes
from evertune.metrics.cider import cider_of_tokens
from evertune.metrics.rules import rule_of, score_cell
from evertune.metrics.vqa import m4c_words, reduced
from evertune.tools.rescore.pairing import Case
from evertune.utils.errors import UserError

Way = Callable[[Case, str], float]
NOT_ALPHANUMERIC = re.compile(r"[^a-zA-Z0-9\s]")
LONE = re.compile(r"\b(\w)\b")
YES, NO = {"YES", "TRUE"}, {"NO", "FALSE"}
OPTIONS = "ABCDE"
UNANSWERABLE = "Unanswerable"
SEVEN = ("bleu-1-ptb", "bleu-2-ptb", "bleu-3-ptb", "bleu-4-ptb", "meteor", "rouge-l-ptb", "cider-ptb")
WORD_IMAGES = {"AI2D", "TQA", "VQA"}
FORMULA = "Handwritten Mathematical Expression Recognition"


@dataclass(frozen=True, slots=True)
class Peer:
    """A public evaluator.

    Attributes:
        source: project and file.
        does: what it does, in one line.
        each: the score of a question; None where only the whole has one.
        whole: the score of all in points, where it is not the mean over answered questions.
        because: what it is known for, where that is why it differs from ours.
        counts_missing: whether a question without an answer is wrong; else it leaves the average.
        by_place: whether the n-th line goes with the n-th question, whatever their ids are.
        one_answer: whether only the first of several answers is looked at.
        wrong_word: a word that makes every prediction wrong, right ones too.
    """

    name: str
    source: str
    does: str
    each: Way | None
    because: str = ""
    whole: Callable[[Sequence[Case]], float] | None = None
    counts_missing: bool = False
    by_place: bool = False
    one_answer: bool = False
    wrong_word: str = ""

    def scores(self, cases: Sequence[Case]) -> list[float | None]:
        """The score of each question; None for those that leave the average, for all where only the whole has one."""
        if self.each is None:
            return [None] * len(cases)
        return [self._score(case) for case in cases]

    def _score(self, case: Case) -> float | None:
        predicted = case.in_place if self.by_place else case.predicted
        if predicted is None or self.each is None:
            return 0.0 if self.counts_missing else None
        return self.each(case, predicted)

    def points(self, cases: Sequence[Case], scores: Sequence[float | None]) -> float:
        """Its score in points of 100, from its `scores` of the cases.

        Raises:
            UserError: it needs something that is not there.
        """
        if self.whole:
            return self.whole(cases)
        counted = [score for score in scores if score is not None]
        if not counted:
            raise UserError("there is nothing to average")
        return 100 * sum(counted) / len(counted)


def same_letters(case: Case, predicted: str) -> float:
    """Equal to the single answer, case aside; a space or a period makes it wrong."""
    return float(predicted.upper() == case.first.upper())


def within_gold(case: Case, predicted: str) -> float:
    """The prediction is a part of the answer (an empty one always is); yes and true are the same."""
    plain, gold = predicted.strip().upper(), case.first.strip().upper()
    if plain in YES | NO and gold in YES | NO:
        return float((plain in YES) == (gold in YES))
    return float(plain in gold)


def either_within(case: Case, predicted: str) -> float:
    """The prediction is a part of the answer or the answer a part of the prediction; an empty one always is."""
    return float(case.first in predicted or predicted in case.first)


def either_within_lower(case: Case, predicted: str) -> float:
    """`either_within`, case and one space at the front aside."""
    plain, gold = predicted.removeprefix(" ").lower(), case.first.lower()
    return float(gold in plain or plain in gold)


def any_either_within(case: Case, predicted: str) -> float:
    """`either_within` of any answer, case aside."""
    plain = predicted.upper()
    return float(any(gold.upper() in plain or plain in gold.upper() for gold in case.gold.answers))


def lower_unless_unanswerable(case: Case, predicted: str) -> float:
    """Equal, case aside; a prediction with `Unanswerable` in it is wrong even where that is the answer."""
    return float(UNANSWERABLE not in predicted and predicted.lower() == case.first.lower())


def gold_within_unless_unanswerable(case: Case, predicted: str) -> float:
    """The answer is a part of the prediction: `no` is in `unknown`."""
    return float(UNANSWERABLE not in predicted and case.first.lower() in predicted.lower())


def gold_within_without_spaces(case: Case, predicted: str) -> float:
    """The answer is a part of the prediction once spaces and periods are gone: `1` is in `10`."""
    plain, gold = (text.lower().replace(" ", "").replace("\n", "").replace(".", "") for text in (predicted, case.first))
    return float(gold in plain)


def letters_and_digits(case: Case, predicted: str) -> float:
    """Equal once everything but English letters, digits and spaces is gone: answers in other scripts are all equal."""
    return float(NOT_ALPHANUMERIC.sub("", predicted.upper()) == NOT_ALPHANUMERIC.sub("", case.first.upper()))


def science_of_mllm_cl(case: Case, predicted: str) -> float:
    """AI2D, TQA, VQA images: equal. Maps: the share of the states named, or the answer a part of the prediction."""
    plain, gold = predicted.lower(), case.first.lower()
    if UNANSWERABLE in predicted:
        return 0.0
    if case.gold.extras.get("image", "").split("/")[-1].split("_")[0] in WORD_IMAGES:
        return float(plain == gold)
    if "Which states" in (case.prompt or case.gold.extras.get("text", "")):
        wanted, named = gold.split(","), plain.split(",")
        return sum(state in named for state in wanted) / len(wanted)
    return float(gold in plain)


def ocrbench(case: Case, predicted: str) -> float:
    """One of the answers is a part of the prediction; in formulas without spaces, elsewhere in lower case."""
    if case.gold.extras.get("answer_type") == FORMULA:
        plain = "".join(predicted.strip().split(" ")).replace("\n", "")
        return float(any(gold.strip().replace(" ", "").replace("\n", "") in plain for gold in case.gold.answers))
    plain = predicted.lower().strip().replace("\n", "")
    return float(any(gold.lower().strip().replace("\n", "") in plain for gold in case.gold.answers))


def gqa_converted(case: Case, predicted: str) -> float:
    """Final periods, capitals and one space at the front go from the prediction; the answer is taken as it stands."""
    return float(predicted.rstrip(".").lower().removeprefix(" ") == case.first)


def cut_box(case: Case, predicted: str) -> float:
    """The brackets are taken off and then a character more on either end: `0.57` at the end is read as `0.5`."""
    inner = predicted.removeprefix(" ").replace("[", "").replace("]", "")[1:-1]
    try:
        x1, y1, x2, y2 = (float(part) for part in inner.split(","))
    except ValueError:
        return 0.0
    return float(boxes.overlap((x1, y1, x2, y2), boxes.gold_box(case.first)) > boxes.OVERLAP_NEEDED)


def lone_letter(case: Case, predicted: str) -> float:
    """`B`, `B. text`, else the first word of one character, whatever it is: `I think B` is read as I, `a dog` as A."""
    if predicted in OPTIONS and len(predicted) == 1:
        letter = predicted
    elif len(predicted) >= 3 and predicted[0] in OPTIONS and predicted[1:3] == ". ":
        letter = predicted[0]
    else:
        found = LONE.search(predicted)
        letter = found.group(1).upper() if found else ""
    return float(letter == case.first)


def m4c(case: Case, predicted: str) -> float:
    """M4C's soft accuracy: an answer of articles and marks only is the same as an empty prediction."""
    return soft([reduced(m4c_words(gold)) == reduced(m4c_words(predicted)) for gold in case.gold.answers])


def vqa_official(case: Case, predicted: str) -> float:
    """The VQA evaluation normalises only where annotators differ; where all agree, `Yes.` is not `yes`."""
    golds = [gold.strip() for gold in case.gold.answers]
    if len(set(golds)) == 1:
        return soft([gold == predicted.strip() for gold in golds])
    return soft([reduced(gold) == reduced(predicted) for gold in golds])


def vizwiz_official(case: Case, predicted: str) -> float:
    """The VizWiz evaluation normalises the prediction only."""
    return soft([gold == reduced(predicted) for gold in case.gold.answers])


def soft(agrees: Sequence[bool]) -> float:
    """min(1, agreeing others / 3), each annotator left out once; three are needed however few there are."""
    count = sum(agrees)
    return sum(min(1.0, (count - agree) / 3) for agree in agrees) / len(agrees)


def thousand(cases: Sequence[Case]) -> float:
    """OCRBench's final score: right answers / 10, whatever their number: a percentage for 1,000 questions only."""
    return sum(ocrbench(case, case.predicted) for case in cases if case.predicted is not None) / 10


def average_of_seven(cases: Sequence[Case]) -> float:
    """The mean of BLEU-1 to 4, METEOR, ROUGE-L and CIDEr, captions given to images by line."""
    pairs = [(case.in_place, case.gold.answers) for case in cases if case.in_place is not None]
    predicted, golds = [text for text, _ in pairs], [answers for _, answers in pairs]
    return sum(score_cell(rule_of(name), predicted, golds).strict for name in SEVEN) / len(SEVEN)


def best_reference(cases: Sequence[Case]) -> float:
    """CIDEr against the one reference that is nearest, the two sides exchanged, words split at spaces."""
    answered = [(case.predicted, case.gold.answers) for case in cases if case.predicted is not None]
    pairs = [(predicted.split(), [gold.split() for gold in golds]) for predicted, golds in answered]
    chosen = []
    for words, golds in pairs:
        alone = cider_of_tokens([words] * len(golds), [[gold] for gold in golds])
        chosen.append(golds[alone.index(max(alone))])
    scores = cider_of_tokens(chosen, [[words] for words, _ in pairs])
    return 100 * sum(scores) / len(scores)
