"""GQA: compositional questions about scenes, one answer each.

A file is one object of up to a million questions by id (about a gigabyte), read member by member. Tested on
testdev_balanced, as the field does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.records import Record, entries_by_id, entry_of, file_of, rows_from
from evertune.utils.errors import DataError

ABOUT = {
    "title": "GQA: compositional questions about scenes; trained on train_balanced, tested on testdev_balanced",
    "source": "https://cs.stanford.edu/people/dorarad/gqa/download.html: "
    "https://downloads.cs.stanford.edu/nlp/data/gqa/questions1.2.zip, images.zip",
    "files": "train_balanced_questions.json, testdev_balanced_questions.json (or in questions/), images/",
    "licence": "CC BY 4.0",
    "citation": "Hudson & Manning 2019, GQA, arXiv 1902.09506",
}
PROMPT = "Question: {question} Short answer:"
FILES = {"train": "train_balanced_questions.json", "test": "testdev_balanced_questions.json"}


def rows(place: Path, *, split: str) -> Iterator[Row | DataError]:
    """A row per question, in the order of the file; ids are the object's keys."""
    return rows_from(entries_by_id(*files(place, split=split)), lambda entry: [_row(entry)])


def files(place: Path, *, split: str) -> list[Path]:
    """The file that `rows` reads."""
    return [file_of(place, FILES[split], f"questions/{FILES[split]}")]


def _row(entry: Record) -> Row:
    return Row(
        id=entry.key,
        images=(f"images/{entry.name('imageId')}.jpg",),
        fields={"question": entry.text("question")},
        answers=(entry.text("answer"),),
        origin=entry.origin,
        extras=_types(entry),
    )


def _types(entry: Record) -> Mapping[str, str]:
    """What kind of question it is: `structural` (query, verify ...) and `semantic` (object, attribute ...)."""
    if not entry.has("types"):
        return {}
    types = entry_of(entry.value["types"], f"{entry.origin}, 'types'")
    return {key: types.text(key) for key in ("structural", "semantic") if types.has(key)}
