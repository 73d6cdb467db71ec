"""VizWiz-VQA: questions that blind people asked about their own photographs, ten annotators each.

Its test answers are not public, so val is the test. The model trains on the most common answer, "unanswerable" too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.annotators import annotated
from evertune.data.formats import Row
from evertune.data.records import Record, entries, file_of, rows_from
from evertune.utils.errors import DataError

ABOUT = {
    "title": "VizWiz-VQA: questions and photographs of blind people, ten annotators each; tested on val",
    "source": "https://vizwiz.org/tasks-and-datasets/vqa/: "
    "https://vizwiz.cs.colorado.edu/VizWiz_final/vqa_data/Annotations.zip; "
    "images: https://vizwiz.cs.colorado.edu/VizWiz_final/images/train.zip, val.zip",
    "files": "train.json, val.json (or in Annotations/), train/, val/",
    "licence": "CC BY 4.0",
    "citation": "Gurari et al. 2018, VizWiz Grand Challenge, arXiv 1802.08218",
}
PROMPT = "Question: {question} Short answer:"
PARTS = {"train": "train", "test": "val"}


def rows(place: Path, *, split: str) -> Iterator[Row | DataError]:
    """A row per photograph, called by its file name; the answers are the annotators', the most common first."""
    return rows_from(entries(*files(place, split=split)), lambda entry: [_row(entry, folder=PARTS[split])])


def files(place: Path, *, split: str) -> list[Path]:
    """The file that `rows` reads."""
    return [file_of(place, f"{PARTS[split]}.json", f"Annotations/{PARTS[split]}.json")]


def _row(entry: Record, *, folder: str) -> Row:
    name = entry.text("image")
    extras = {"answer_type": entry.text("answer_type")} if entry.has("answer_type") else {}
    if entry.has("answerable"):
        extras["answerable"] = str(entry.number("answerable"))
    return Row(
        id=Path(name).stem,
        images=(f"{folder}/{name}",),
        fields={"question": entry.text("question")},
        answers=annotated(entry),
        origin=entry.origin,
        extras=extras,
    )
