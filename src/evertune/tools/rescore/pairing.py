"""Match answers with questions by id, and say exactly what does not match.

A gold file of another split, chunks merged twice and lost answers are the usual accidents; each of them would change a
score silently.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from evertune.tools.rescore.gold import Gold
from evertune.tools.rescore.predictions import PredictionRecord
from evertune.utils.errors import DataError

Missing = Literal["fail", "wrong"]


@dataclass(frozen=True, slots=True)
class Case:
    """A question with its answers and the model's prediction.

    Attributes:
        predicted: None when there is no answer to this question.
        in_place: the prediction at this question's position in the file; some evaluators match by it.
        prompt: the question, where the file of predictions has it.
    """

    gold: Gold
    predicted: str | None
    in_place: str | None
    prompt: str = ""

    @property
    def first(self) -> str:
        """The answer that training uses."""
        return self.gold.answers[0]


def pair(
    predicted: Sequence[PredictionRecord], golds: Sequence[Gold], *, file: Path, gold: Path, missing: Missing = "fail"
) -> list[Case]:
    """One case per question, in the order of the gold file.

    Raises:
        DataError: ids stand twice, or don't match; the message says how many and names the first.
    """
    _check_twice([one.id for one in predicted], f"{file}: chunks merged twice, or two runs in one file?")
    _check_twice([one.id for one in golds], f"{gold}: which of the answers counts can't be known")
    known = {one.id: one for one in predicted}
    _check_match(known, [one.id for one in golds], file=file, gold=gold, missing=missing)
    cases = []
    for place, one in enumerate(golds):
        answer = known.get(one.id)
        in_place = predicted[place].text if place < len(predicted) else None
        cases.append(Case(one, answer.text if answer else None, in_place, answer.prompt if answer else ""))
    return cases


def pair_by_line(predicted: Sequence[PredictionRecord], golds: Sequence[Gold], *, file: Path, gold: Path) -> list[Case]:
    """Captions without ids of their own: the n-th line belongs to the image `n`; `golds` are in this order.

    Raises:
        DataError: their numbers differ: from the first gap on, every caption would be scored against another image.
    """
    numbers = {str(number) for number in range(1, len(predicted) + 1)}
    if numbers != {one.id for one in golds}:
        raise DataError(
            f"{file} has {len(predicted):,} captions, {gold} {len(golds):,} images: their ids do not match, and "
            "the images are not numbered by line from 1 on"
        )
    return [Case(one, answer.text, answer.text, answer.prompt) for one, answer in zip(golds, predicted, strict=True)]


def by_question(
    predicted: Sequence[PredictionRecord], golds: Sequence[Gold], *, gold: Path
) -> Sequence[PredictionRecord]:
    """Answers to TextVQA whose ids are those of images, as LLaVA writes them, under the ids of their questions.

    Raises:
        DataError: a prompt holds no question about its image, or one that another answer has taken.
    """
    if {one.id for one in predicted} & {one.id for one in golds}:
        return predicted
    open_ones: dict[tuple[str, str], deque[str]] = {}
    for wanted in golds:
        if "question" in wanted.extras and "image_id" in wanted.extras:
            key = (wanted.extras["image_id"], wanted.extras["question"].strip().lower())
            open_ones.setdefault(key, deque()).append(wanted.id)
    if not {one.id for one in predicted} <= {image for image, _ in open_ones}:
        return predicted
    named = []
    for one in predicted:
        ids = open_ones.get((one.id, _question_in(one.prompt)))
        if not ids:
            raise DataError(
                f"{one.origin}: the question_id '{one.id}' is an image of {gold}, and the prompt of the answer "
                f"holds no question about it that is still open: {one.prompt[:80]!r}"
            )
        named.append(replace(one, id=ids.popleft()))
    return named


def _question_in(prompt: str) -> str:
    """The question in a prompt of LLaVA's for TextVQA: behind the OCR tokens, or the first line that has none."""
    before, _, rest = prompt.partition("Question: ")
    question, ends, _ = rest.partition(" Short answer:")  # a regular expression looks for it behind each "Question: "
    lines = [line for line in prompt.replace("<image>", "").strip().split("\n") if not line.startswith("Reference OCR")]
    return (question if before.startswith("OCR tokens: ") and ends else lines[0] if lines else "").strip().lower()


def beside(predicted: Sequence[PredictionRecord]) -> list[Case]:
    """The cases of an `ans_gt.json`, which has gold and answer side by side."""
    return [Case(Gold(one.id, one.gold), one.text, one.text, one.prompt) for one in predicted]


def _check_twice(names: Sequence[str], what: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} question ids stand more than once, first '{twice[0]}', in {what}")


def _check_match(
    known: dict[str, PredictionRecord], wanted: Sequence[str], *, file: Path, gold: Path, missing: Missing
) -> None:
    both = [name for name in wanted if name in known]
    absent = [name for name in wanted if name not in known]
    extra = sorted(known.keys() - set(wanted))
    count = f"{len(both):,} of {len(wanted):,} question ids of {gold} are answered in {file}"
    if not both:
        raise DataError(
            f"{count}: is it the gold file of another split or data set? "
            f"(there '{wanted[0]}', here '{extra[0]}' is the first)"
        )
    if extra:
        raise DataError(
            f"{count}, and {len(extra):,} answers belong to no question there, first '{extra[0]}': "
            "is it the gold file of another split?"
        )
    if absent and missing == "fail":
        raise DataError(
            f"{count}; {len(absent):,} are missing, first '{absent[0]}'. "
            "Finish the run, or count them as wrong with --missing wrong"
        )
