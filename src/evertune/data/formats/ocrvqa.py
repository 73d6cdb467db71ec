"""OCR-VQA: several questions about each of 207,572 book covers, one answer each.

One file with an object per book, which is read book by book; a number says which part a book is in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from evertune.data.formats import Row
from evertune.data.records import Record, entries_by_id, file_of, one_of, rows_from
from evertune.utils.errors import DataError

ABOUT = {
    "title": "OCR-VQA: title, author and genre questions about book covers",
    "source": "https://ocr-vqa.github.io: https://drive.google.com/drive/folders/1_GYPY5UkUy7HIcR0zq3ZCFgeZN7BAfm_",
    "files": "dataset.json, images/ (as the authors' loadDataset.py names them: id and the ending of imageURL)",
    "licence": "not stated; for research",
    "citation": "Mishra et al. 2019, OCR-VQA: Visual Question Answering by Reading Text in Images, ICDAR",
}
PROMPT = "Question: {question} Short answer:"
PARTS = {"train": 1, "val": 2, "test": 3}


def rows(place: Path, *, split: str, test: str = "test", ending: str | None = None) -> Iterator[Row | DataError]:
    """A row per question, called `book-number`.

    Args:
        place: folder with the files of `ABOUT`.
        split: `train` or `test`.
        test: the part that is tested on, `test` or `val`.
        ending: of all images, like `.jpg` where they were converted; None: that of `imageURL`.
    """
    part = PARTS[{"train": "train", "test": one_of(test, ("test", "val"), kind="part")}[split]]
    found = entries_by_id(*files(place))
    return rows_from(found, lambda book: _book(book, ending=ending) if _part(book) == part else ())


def files(place: Path, **_: object) -> list[Path]:
    """The file that `rows` reads."""
    return [file_of(place, "dataset.json")]


def _part(entry: Record) -> int:
    if entry.number("split") not in PARTS.values():
        raise entry.wrong("split", "1 (train), 2 (val) or 3 (test)")
    return entry.number("split")


def _book(entry: Record, *, ending: str | None) -> Iterator[Row]:
    questions, answers = entry.texts("questions"), entry.texts("answers")
    if len(questions) != len(answers):
        raise DataError(f"{entry.origin}: {len(questions)} questions and {len(answers)} answers")
    image = f"images/{entry.key}{ending or PurePosixPath(entry.text('imageURL')).suffix}"
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        yield Row(f"{entry.key}-{number}", (image,), {"question": question}, (answer,), entry.origin)
