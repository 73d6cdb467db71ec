"""POPE: is an object in the image? Yes and no alike, for asking whether a model sees what is not there.

{name: pope, format: pope, root: POPE, images: COCO2014/val2014, options: {subset: random}, score: pope}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.records import Record, entries_by_line, file_of, one_of, rows_from
from evertune.utils.errors import DataError

ABOUT = {
    "title": "POPE: is an object in the image? 3,000 questions about 500 COCO images in each of three subsets",
    "source": "https://github.com/AoiDragon/POPE, output/coco; images: COCO val2014",
    "files": "coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json (or in coco/ or output/coco/), "
    "one object a line",
    "licence": "MIT; COCO annotations: CC BY 4.0",
    "citation": "Li et al. 2023, Evaluating Object Hallucination in Large Vision-Language Models, arXiv 2305.10355",
}
PROMPT = "{question}\nAnswer the question using a single word or phrase."
SUBSETS = ("random", "popular", "adversarial")


def rows(place: Path, *, split: str, subset: str = "random") -> Iterator[Row | DataError]:
    """A row per question.

    Args:
        place: the folder, or the file of a subset.
        split: test only: it is evaluated, never trained.
        subset: which of random, popular and adversarial.
    """
    return rows_from(entries_by_line(*files(place, split=split, subset=subset)), lambda entry: [_row(entry)])


def files(place: Path, *, split: str, subset: str = "random") -> list[Path]:
    """The file that `rows` reads.

    Raises:
        DataError: training data are requested.
    """
    if split != "test":
        raise DataError(f"{place}: POPE has no training data: list it under 'probes' of the stream")
    name = f"coco_pope_{one_of(subset, SUBSETS, kind='subset')}.json"
    return [place if place.is_file() else file_of(place, name, f"coco/{name}", f"output/coco/{name}")]


def _row(entry: Record) -> Row:
    if (label := entry.text("label").lower()) not in ("yes", "no"):
        raise entry.wrong("label", "yes or no")
    return Row(
        id=entry.name("question_id"),
        images=(entry.text("image"),),
        fields={"question": entry.text("text")},
        answers=(label,),
        origin=entry.origin,
    )
