"""Flickr30k with Karpathy's splits: five captions per photograph.

The stream's captioning task; scored by CIDEr-D.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.captions import test_row, training_rows
from evertune.data.formats import Row
from evertune.data.records import Record, entries, file_of, one_of, rows_from
from evertune.utils.errors import DataError

ABOUT = {
    "title": "Flickr30k: photographs of people and animals with five captions each, Karpathy's splits",
    "source": "https://shannon.cs.illinois.edu/DenotationGraph/ (photographs), "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip (captions and splits)",
    "files": "dataset_flickr30k.json, flickr30k-images/",
    "licence": "captions: for research and education; photographs: their authors', under Flickr's terms of use",
    "citation": "Young et al. 2014, TACL 2; splits: Karpathy & Fei-Fei 2015, arXiv 1412.2306",
}
PROMPT = "A short image description."


def rows(place: Path, *, split: str, test: str = "test") -> Iterator[Row | DataError]:
    """Training: a row per caption. Test: a row per photograph, all captions count.

    Args:
        place: folder with the files of `ABOUT`.
        split: `train` or `test`.
        test: Karpathy's part that is tested on, `test` (1,000 photographs) or `val` (1,014).
    """
    part = {"train": "train", "test": one_of(test, ("test", "val"), kind="part")}[split]
    make = training_rows if split == "train" else test_row

    def made(entry: Record) -> Iterator[Row]:
        if entry.text("split") == part:
            name = entry.text("filename")
            captions = [sentence.text("raw") for sentence in entry.entries("sentences")]
            yield from make(Path(name).stem, captions, image=f"flickr30k-images/{name}", origin=entry.origin)

    return rows_from(entries(*files(place), under="images"), made)


def files(place: Path, **_: object) -> list[Path]:
    """The file that `rows` reads."""
    return [file_of(place, "dataset_flickr30k.json")]
