"""Answers of several annotators: the choice of the training target, and pairs of question and annotation files.

VQAv2 and OKVQA publish questions and annotations as two lists that share ids; VizWiz and TextVQA keep them together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.records import Record, entries, file_of, rows_from
from evertune.utils.errors import DataError


def taught_first(answers: Sequence[str], *, origin: str) -> tuple[str, ...]:
    """All answers, the training target first: the most common one; among equally common ones the first in the file.

    An empty answer is never the training target, but counts as a disagreeing annotator.

    Raises:
        DataError: all are empty.
    """
    given = Counter(answer for answer in answers if answer)
    if not given:
        raise DataError(f"{origin}: all answers are empty")
    trained = given.most_common(1)[0][0]  # a Counter keeps the order of its first counts among equals
    place = answers.index(trained)
    return (trained, *answers[:place], *answers[place + 1 :])


def annotated(entry: Record, key: str = "answers") -> tuple[str, ...]:
    """The answers of an annotation whose list holds an object per annotator, the trained one first."""
    return taught_first([one.text("answer", blank=True) for one in entry.entries(key)], origin=entry.origin)


ReadRows = Callable[..., Iterator[Row | DataError]]
NameFiles = Callable[..., list[Path]]
VQA_PARTS = {"train": "train2014", "test": "val2014"}
"""COCO's names of the parts; the answers of its test part are not public."""


def vqa_layout(questions: str, annotations: str) -> tuple[ReadRows, NameFiles]:
    """`rows` and `files` of a format in the layout of VQA; `{}` in the names of the two files is the part."""

    def files(place: Path, *, split: str) -> list[Path]:
        return [file_of(place, name.format(VQA_PARTS[split])) for name in (questions, annotations)]

    def rows(place: Path, *, split: str) -> Iterator[Row | DataError]:
        return vqa_rows(*files(place, split=split), split=split)

    return rows, files


def vqa_rows(questions: Path, annotations: Path, *, split: str) -> Iterator[Row | DataError]:
    """Rows from a file of questions and a file of annotations in the layout of VQA, about photographs of COCO.

    Args:
        questions: `{"questions": [{question_id, image_id, question}]}`.
        annotations: `{"annotations": [{question_id, image_id, answers: [{answer}], question_type, answer_type}]}`.
        split: decides the folder and the names of the images.
    """
    part = VQA_PARTS[split]

    def made(pair: tuple[Record, Record]) -> Iterator[Row]:
        question, annotation = pair
        if question.number("image_id") != annotation.number("image_id"):
            raise DataError(f"{annotation.origin}: 'image_id' differs from that of {question.origin}")
        yield Row(
            id=question.name("question_id"),
            images=(f"{part}/COCO_{part}_{question.number('image_id'):012d}.jpg",),
            fields={"question": question.text("question")},
            answers=annotated(annotation),
            origin=annotation.origin,
            extras={key: annotation.text(key) for key in ("question_type", "answer_type") if annotation.has(key)},
        )

    pairs = paired(entries(questions, under="questions"), entries(annotations, under="annotations"), where=questions)
    return rows_from(pairs, made)


def paired(
    questions: Iterator[Record | DataError], annotations: Iterator[Record | DataError], *, where: Path
) -> Iterator[tuple[Record, Record] | DataError]:
    """Each question with its annotation, by `question_id`, in the order of the annotations.

    The published files have the same order, so that both are read side by side; where orders differ, the questions
    between are held in memory. An id that is found in one file only, or twice, is an error in its place.
    """
    waiting: dict[str, Record] = {}
    rest = _named(questions)
    for entry in _named(annotations):
        if isinstance(entry, DataError):
            yield entry
            continue
        wanted, annotation = entry
        while wanted not in waiting and (question := next(rest, None)) is not None:
            yield from _remember(question, waiting)
        if wanted in waiting:
            yield waiting.pop(wanted), annotation
        else:
            yield DataError(f"{annotation.origin}: the question_id '{wanted}' is not in {where}, or stands twice")
    for left in chain(waiting.items(), rest):
        if isinstance(left, DataError):
            yield left
        else:
            yield DataError(f"{left[1].origin}: the question_id '{left[0]}' has no annotation")


def _named(found: Iterable[Record | DataError]) -> Iterator[tuple[str, Record] | DataError]:
    for one in found:
        try:
            pair = one if isinstance(one, DataError) else (one.name("question_id"), one)
        except DataError as problem:
            pair = problem
        yield pair


def _remember(question: tuple[str, Record] | DataError, waiting: dict[str, Record]) -> Iterator[DataError]:
    if isinstance(question, DataError):
        yield question
        return
    name, entry = question
    if name in waiting:
        yield DataError(f"{entry.origin}: the question_id '{name}' is already used at {waiting[name].origin}")
    waiting.setdefault(name, entry)
