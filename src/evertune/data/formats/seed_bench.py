"""SEED-Bench: questions with four options about images, in nine abilities; its questions about videos are left out.

{name: seed, format: seed-bench, root: SEED-Bench, images: SEED-Bench/SEED-Bench-image, score: choice}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.records import Record, entries, file_of, rows_from
from evertune.utils.errors import DataError

ABOUT = {
    "title": "SEED-Bench: 14,000 questions with four options about images (the other 5,000 are about videos)",
    "source": "https://huggingface.co/datasets/AILab-CVC/SEED-Bench",
    "files": "SEED-Bench.json, SEED-Bench-image/",
    "licence": "CC BY-NC 4.0; the images are from CC3M",
    "citation": "Li et al. 2023, SEED-Bench: Benchmarking Multimodal LLMs with Generative Comprehension, "
    "arXiv 2307.16125",
}
PROMPT = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."
LETTERS = "ABCD"


def rows(place: Path, *, split: str) -> Iterator[Row | DataError]:
    """A row per question about an image; `place` is the folder or the file. Test only: never trained."""
    found = entries(*files(place, split=split), under="questions")
    return rows_from(found, lambda entry: [] if _is_video(entry) else [_row(entry)])


def files(place: Path, *, split: str) -> list[Path]:
    """The file of questions.

    Raises:
        DataError: training data are requested.
    """
    if split != "test":
        raise DataError(f"{place}: SEED-Bench has no training data: list it under 'probes' of the stream")
    return [place if place.is_file() else file_of(place, "SEED-Bench.json")]


def _is_video(entry: Record) -> bool:
    return entry.has("data_type") and entry.text("data_type") != "image"


def _row(entry: Record) -> Row:
    options = "\n".join(f"{letter}. {entry.text(f'choice_{letter.lower()}')}" for letter in LETTERS)
    answer = entry.text("answer").upper()
    if answer not in LETTERS or len(answer) != 1:
        raise entry.wrong("answer", "A, B, C or D")
    return Row(
        id=entry.name("question_id"),
        images=(entry.name("data_id"),),
        fields={"question": entry.text("question"), "options": options},
        answers=(answer,),
        origin=entry.origin,
        extras={"type": entry.name("question_type_id")} if entry.has("question_type_id") else {},
    )
