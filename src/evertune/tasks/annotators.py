"""Answers of several people to one question: which is taught, and files that keep questions and answers apart.

VQAv2 and OKVQA publish questions and annotations as two lists that share ids; VizWiz and TextVQA keep them together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from evertune.errors import DataError
from evertune.tasks.entries import Entry, entries
from evertune.tasks.formats import Row


def taught_first(answers: Sequence[str], *, origin: str) -> tuple[str, ...]:
    """All answers, the taught one first: the most common; of equally common ones the first in the file.

    An annotator who wrote nothing is never taught, but still counts among those who did not agree.

    Raises:
        DataError: all are empty.
    """
    given = Counter(answer for answer in answers if answer)
    if not given:
        raise DataError(f"{origin}: all answers are empty")
    taught = given.most_common(1)[0][0]  # a Counter keeps the order of its first counts among equals
    place = answers.index(taught)
    return (taught, *answers[:place], *answers[place + 1 :])


def annotated(entry: Entry, key: str = "answers") -> tuple[str, ...]:
    """The answers of an annotation whose list holds an object per annotator, the taught one first."""
    return taught_first([one.text("answer", blank=True) for one in entry.entries(key)], origin=entry.origin)


def vqa_rows(questions: Path, annotations: Path, *, image: str) -> Iterator[Row]:
    """Rows from a file of questions and a file of annotations in the layout of VQA.

    Args:
        questions: `{"questions": [{question_id, image_id, question}]}`.
        annotations: `{"annotations": [{question_id, image_id, answers: [{answer}], question_type, answer_type}]}`.
        image: the picture's file name, with `{:012d}` for the number of the image.
    """
    for question, annotation in paired(
        entries(questions, under="questions"), entries(annotations, under="annotations"), where=questions
    ):
        if question.number("image_id") != annotation.number("image_id"):
            raise DataError(f"{annotation.origin}: 'image_id' differs from that of {question.origin}")
        yield Row(
            id=question.name("question_id"),
            images=(image.format(question.number("image_id")),),
            fields={"question": question.text("question")},
            answers=annotated(annotation),
            origin=annotation.origin,
            extras={key: annotation.text(key) for key in ("question_type", "answer_type") if annotation.has(key)},
        )


def paired(questions: Iterator[Entry], annotations: Iterator[Entry], *, where: Path) -> Iterator[tuple[Entry, Entry]]:
    """Each question with its annotation, by `question_id`, in the order of the annotations.

    The published files have the same order, so that both are read side by side; where orders differ, the questions
    between are held in memory.

    Raises:
        DataError: an id is found in one file only, or twice.
    """
    waiting: dict[str, Entry] = {}
    for annotation in annotations:
        wanted = annotation.name("question_id")
        while wanted not in waiting:
            question = next(questions, None)
            if question is None:
                raise DataError(f"{annotation.origin}: the question_id '{wanted}' is not in {where}, or stands twice")
            _remember(question, waiting)
        yield waiting.pop(wanted), annotation
    for question in chain(waiting.values(), questions):
        raise DataError(f"{question.origin}: the question_id '{question.name('question_id')}' has no annotation")


def _remember(question: Entry, waiting: dict[str, Entry]) -> None:
    name = question.name("question_id")
    if name in waiting:
        raise DataError(f"{question.origin}: the question_id '{name}' stands at {waiting[name].origin} already")
    waiting[name] = question
