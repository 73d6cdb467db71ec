"""TextCaps: captions that require reading the text in the image.

Its test captions are not public, so the validation part is the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.captions import test_row, training_rows
from evertune.data.formats import Row
from evertune.data.records import Record, entries, file_of, rows_from
from evertune.utils.errors import DataError

ABOUT = {
    "title": "TextCaps 0.1: captions that read the text in the image; tested on val",
    "source": "https://textvqa.org/textcaps/dataset/: "
    "https://dl.fbaipublicfiles.com/textvqa/data/textcaps/TextCaps_0.1_train.json, TextCaps_0.1_val.json; "
    "images: https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
    "files": "TextCaps_0.1_train.json, TextCaps_0.1_val.json, train_images/",
    "licence": "CC BY 4.0; images: OpenImages, CC BY 2.0",
    "citation": "Sidorov et al. 2020, TextCaps, arXiv 2003.12462",
}
PROMPT = "A short image description."
FILES = {"train": "TextCaps_0.1_train.json", "test": "TextCaps_0.1_val.json"}


def rows(place: Path, *, split: str) -> Iterator[Row | DataError]:
    """Training: a row per caption. Test: a row per image, all captions count.

    The file has an entry per caption, and each repeats all captions of its image (`reference_strs`), so only an image's
    first entry is used.
    """
    seen: set[str] = set()
    make = training_rows if split == "train" else test_row

    def made(entry: Record) -> Iterator[Row]:
        name = entry.name("image_id")
        if name not in seen:
            captions = entry.texts("reference_strs")
            seen.add(name)
            yield from make(name, captions, image=f"train_images/{name}.jpg", origin=entry.origin)

    return rows_from(entries(*files(place, split=split), under="data"), made)


def files(place: Path, *, split: str) -> list[Path]:
    """The file that `rows` reads."""
    return [file_of(place, FILES[split])]
