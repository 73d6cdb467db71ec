"""A-OKVQA: questions with four options; the answer is the letter.

Its test answers are not public, so val is the test. Direct answers and rationales stay available for other uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.annotators import taught_first
from evertune.data.formats import Row
from evertune.data.records import Record, entries, file_of, one_of, rows_from
from evertune.utils.errors import DataError

ABOUT = {
    "title": "A-OKVQA 1.0: outside knowledge with four options; tested on val",
    "source": "https://allenai.org/project/a-okvqa/home: "
    "https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz; "
    "images: http://images.cocodataset.org/zips/train2017.zip, val2017.zip",
    "files": "aokvqa_v1p0_train.json, aokvqa_v1p0_val.json; images: {train,val}2017/*.jpg",
    "licence": "Apache-2.0; photographs: their authors', under Flickr's terms of use",
    "citation": "Schwenk et al. 2022, A-OKVQA, arXiv 2206.01718",
}
PROMPT = "Question: {question} Options: {options}"
PARTS = {"train": "train", "test": "val"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def rows(place: Path, *, split: str, answer: str = "letter") -> Iterator[Row | DataError]:
    """A row per question.

    Args:
        place: folder with the files of `ABOUT`.
        split: `train` or `test`.
        answer: `letter` teaches `(b)`; `direct` the most common of the annotators' own words, scored by `vqa` (the
            prompt should then be `Question: {question} Short answer:`).
    """
    wanted = one_of(answer, ("letter", "direct"), kind="answer")
    part = PARTS[split]

    def made(entry: Record) -> Iterator[Row]:
        choices = entry.texts("choices")
        yield Row(
            id=entry.name("question_id"),
            images=(f"{part}2017/{entry.number('image_id'):012d}.jpg",),
            fields={
                "question": entry.text("question"),
                "options": " ".join(map(_option, range(len(choices)), choices)),
            },
            answers=(_letter(entry, len(choices)),) if wanted == "letter" else _direct(entry),
            origin=entry.origin,
            extras={"rationale": entry.texts("rationales")[0]} if entry.has("rationales") else {},
        )

    return rows_from(entries(*files(place, split=split)), made)


def files(place: Path, *, split: str, **_: object) -> list[Path]:
    """The file that `rows` reads."""
    return [file_of(place, f"aokvqa_v1p0_{PARTS[split]}.json")]


def _option(number: int, choice: str) -> str:
    return f"({LETTERS[number]}) {choice}"


def _letter(entry: Record, count: int) -> str:
    number = entry.number("correct_choice_idx")
    if not 0 <= number < min(count, len(LETTERS)):
        raise entry.wrong("correct_choice_idx", f"the number of one of {count} choices, from 0")
    return f"({LETTERS[number]})"


def _direct(entry: Record) -> tuple[str, ...]:
    return taught_first(entry.texts("direct_answers", blank=True), origin=entry.origin)
