"""The scoring rules by name: how a whole cell of R is scored, answer by answer, strictly and in any form.

A rule sees all answers of a cell at once, because CIDEr-D weighs words by all references. What a rule needs beside
predictions and answers (the size of an image, the text of an option) the answers carry as text. `docs/metrics.md` has
the formulas.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evertune.metrics import anls, answers, benchmarks, boxes, captions, java_scorers, vqa
from evertune.metrics.cider import cider, cider_of_tokens
from evertune.metrics.reasoning_tags import without_thoughts
from evertune.utils.errors import UserError, unknown
from evertune.utils.plugins import Registry

Score = Callable[[Sequence[str], Sequence[Sequence[str]]], list[float]]
"""Predictions and the references of each -> a score for each; 1 is 100 points."""
Whole = Callable[[Sequence[str], Sequence[Sequence[str]]], float]
"""The same -> one score for all of them."""
Compare = Callable[[str, Sequence[str]], float]
Tokenise = Callable[[Sequence[str]], list[list[str]]]

MOST_ANSWERS = 1000
"""Gold answers of a sample; each is looked for in the prediction. Published data have ten."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A scoring rule.

    Attributes:
        about: one line for `evertune show`.
        strict: what the matrix holds.
        relaxed: the same knowledge in any form.
        whole: the score of a cell where it is not the mean of its answers' scores (BLEU, METEOR).
        check_gold: raises a UserError for a gold answer that this rule can't score; None: it scores any text.
        version: of a rule that a user has written, a hash of its code; part of what a task and a cell are.
    """

    name: str
    about: str
    strict: Score
    relaxed: Score
    whole: Whole | None = None
    check_gold: Callable[[str], object] | None = None
    version: str = ""

    @property
    def identity(self) -> str:
        """The name, with the version where there is one: a changed rule gives other scores."""
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class CellScore:
    """Score of a cell in points of 100.

    Attributes:
        standard_error: of `strict`, from the spread of the answers' scores; None for a single answer, and where the
            score of the cell is not their mean.
        each: strict score of every answer; 1 is 100 points.
        each_relaxed: the same for the relaxed score.
    """

    strict: float
    relaxed: float
    standard_error: float | None
    each: list[float]
    each_relaxed: list[float]


def each(compare: Compare) -> Score:
    """A rule for cells from a rule for single answers."""

    def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        return [compare(predicted, gold) for predicted, gold in zip(predictions, references, strict=True)]

    return score


def answerwise(
    name: str, about: str, strict: Compare, relaxed: Compare, *, check_gold: Callable[[str], object] | None = None
) -> Rule:
    """A rule for cells from its two sides for single answers; what is right strictly is right in any form."""

    def either(prediction: str, golds: Sequence[str]) -> float:
        return max(strict(prediction, golds), relaxed(prediction, golds))

    return Rule(name, about, each(strict), each(either), check_gold=check_gold)


def on_words(of_tokens: captions.OfTokens, tokenise: Tokenise) -> Score:
    """A rule for texts from one for lists of words."""

    def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        return of_tokens(*split_cell(predictions, references, tokenise))

    return score


def on_words_whole(of_tokens: captions.WholeOfTokens, tokenise: Tokenise) -> Whole:
    """`on_words` for the score of a cell."""

    def whole(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return of_tokens(*split_cell(predictions, references, tokenise))

    return whole


def split_cell(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenise: Tokenise
) -> tuple[list[list[str]], list[list[list[str]]]]:
    """The words of predictions and references, split in one go."""
    words = iter(tokenise([*predictions, *(text for texts in references for text in texts)]))
    predicted = [next(words) for _ in predictions]
    return predicted, [[next(words) for _ in texts] for texts in references]


def _bleu(order: int, tokenise: Tokenise, *, suffix: str, how: str) -> Rule:
    score = on_words(captions.bleu_of_tokens(order), tokenise)
    whole = on_words_whole(captions.corpus_bleu_of_tokens(order), tokenise)
    return Rule(f"bleu-{order}{suffix}", f"BLEU-{order} of the whole cell x 100{how}", score, score, whole)


def _caption_rules(tokenise: Tokenise, *, suffix: str = "", how: str = "") -> list[Rule]:
    """BLEU and ROUGE-L; blind to case and marks already, so strict is relaxed."""
    rouge = on_words(captions.rouge_l_of_tokens, tokenise)
    bleus = [_bleu(order, tokenise, suffix=suffix, how=how) for order in range(1, 5)]
    return [*bleus, Rule(f"rouge-l{suffix}", f"ROUGE-L x 100{how}", rouge, rouge)]


def _java_rule(name: str, about: str, published: Callable[..., java_scorers.Scored]) -> Rule:
    def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        return published(predictions, references)[1]

    def whole(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return published(predictions, references)[0]

    return Rule(name, about, score, score, whole)


def _of_cell(name: str, about: str, compare: Compare, whole: Whole) -> Rule:
    """A rule whose score of a cell is `whole`; that of an answer is `compare`."""
    score = each(compare)
    return Rule(name, about, score, score, whole)


_CIDER_PTB = on_words(cider_of_tokens, java_scorers.ptb_tokens)
_BUILT_IN = {
    rule.name: rule
    for rule in (
        answerwise("exact", "exact match", answers.exact, answers.relaxed),
        answerwise("contains", "an accepted answer in any form", answers.relaxed, answers.relaxed),
        answerwise("vqa", "VQA soft accuracy over annotators", vqa.vqa, vqa.vqa_relaxed),
        answerwise("textvqa", "VQA soft accuracy, M4C's normaliser", vqa.textvqa, vqa.vqa_relaxed),
        answerwise("vizwiz", "VQA soft accuracy, the prediction normalised only", vqa.vizwiz, vqa.vqa_relaxed),
        answerwise("option", "letter of the option", answers.option, answers.option_letter),
        answerwise("scienceqa", "letter of the option as LLaVA reads it", answers.scienceqa, answers.scienceqa_relaxed),
        answerwise(
            "normalised",
            "equal to the first answer after VQA normalisation",
            vqa.first_normalised,
            vqa.first_contained,
        ),
        answerwise("gqa", "the first answer; case and final period aside", answers.gqa, vqa.first_contained),
        answerwise("ocrvqa", "the first answer; case aside", answers.ocrvqa, vqa.first_contained),
        answerwise(
            "box", "boxes that overlap by more than half", boxes.box, boxes.box_relaxed, check_gold=boxes.gold_box
        ),
        answerwise("anls", "nearness of the nearest answer's letters", anls.anls, answers.relaxed),
        answerwise("pope", "POPE: yes or no as its authors read it", benchmarks.pope, benchmarks.pope),
        _of_cell("pope-f1", "POPE: F1 of yes", benchmarks.pope, benchmarks.pope_f1),
        _of_cell("pope-yes-ratio", "POPE: share of yes", benchmarks.pope, benchmarks.yes_ratio),
        answerwise("mme", "MME: accuracy", benchmarks.mme, benchmarks.mme),
        _of_cell("mme-plus", "MME: acc+, both questions about an image right", benchmarks.mme, benchmarks.mme_plus),
        answerwise("choice", "letter of the option in any form", benchmarks.choice, benchmarks.choice),
        _of_cell("circular", "MMBench: right in every order of the options", benchmarks.choice, benchmarks.circular),
        Rule("cider", "CIDEr-D x 100; may exceed 100", cider, cider),  # blind to case and marks already
        *_caption_rules(captions.tokenise_all),
        Rule("cider-ptb", "CIDEr-D x 100, Java tokeniser; may exceed 100", _CIDER_PTB, _CIDER_PTB),
        *_caption_rules(java_scorers.ptb_tokens, suffix="-ptb", how=", Java tokeniser"),
        _java_rule("meteor", "METEOR x 100 (Java)", java_scorers.meteor),
        _java_rule("spice", "SPICE x 100 (Java)", java_scorers.spice),
    )
}


def _refuse_unusable(name: str, rule: Any) -> None:
    if not isinstance(rule, Rule):
        raise UserError(f"it is {rule!r:.80}, and a scoring rule is an evertune.metrics.rules.Rule")
    if rule.name != name:
        raise UserError(f"it calls itself {rule.name!r}: give it the name {name!r}")


RULES: Registry[Rule] = Registry("metrics", _BUILT_IN, check=_refuse_unusable)

ABOVE_100 = {"cider", "cider-ptb"}
"""Rules whose scores are no shares: they may exceed 100 points."""


def rule_of(name: str) -> Rule:
    """The scoring rule called `name`.

    Raises:
        UserError: there is none; the message has the nearest name.
    """
    if name not in RULES:
        hint = (
            "One of your own comes with --plugin FILE.py; in Python pass the function, or load its file with "
            "evertune.load_plugin"
        )
        raise unknown("score", name, RULES, hint=hint)
    return RULES[name]


def score_cell(rule: Rule, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CellScore:
    """Score all answers of a cell by `rule`, without what stands before `</think>` in predictions and gold answers.

    Args:
        rule: the rule.
        predictions: one per sample; an empty one is never right.
        references: the answers of each sample, one at least.

    Raises:
        UserError: there is nothing to score, a sample has no answers or more than `MOST_ANSWERS`, or predictions and
            samples differ in number.
    """
    if not predictions or len(predictions) != len(references):
        raise UserError(f"{len(predictions)} answers for {len(references)} samples: a cell with gaps has no score")
    for number, golds in enumerate(references, start=1):
        if not golds:
            raise UserError(
                f"sample {number} of {len(references)} has no gold answer: there is nothing to compare with"
            )
        if len(golds) > MOST_ANSWERS:
            raise UserError(f"sample {number} has {len(golds):,} gold answers; at most {MOST_ANSWERS:,} are taken")
    predictions = [without_thoughts(text) for text in predictions]
    references = [[without_thoughts(gold) or gold for gold in golds] for golds in references]
    strict = rule.strict(predictions, references)
    total = rule.whole(predictions, references) if rule.whole else sum(strict) / len(strict)
    if rule.relaxed is rule.strict:
        return CellScore(100 * total, 100 * total, None if rule.whole else error_of_mean(strict), strict, strict)
    loose = rule.relaxed(predictions, references)
    return CellScore(100 * total, 100 * (sum(loose) / len(loose)), error_of_mean(strict), strict, loose)


def error_of_mean(scores: Sequence[float]) -> float | None:
    """Standard error of a cell in points: 100 x sample standard deviation / sqrt(n); None for a single answer."""
    return 100 * statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None
