"""TextVQA: questions about text in images, with the tokens of an OCR system.

Its test answers are not public, so val is the test. The model trains on the most common of ten answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from evertune.data.annotators import taught_first
from evertune.data.formats import Row
from evertune.data.records import Record, entries, file_of, rows_from, sound
from evertune.utils.errors import DataError

ABOUT = {
    "title": "TextVQA 0.5.1 with Rosetta OCR tokens 0.2, ten annotators each; tested on val",
    "source": "https://textvqa.org/dataset/: https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_train.json, "
    "TextVQA_0.5.1_val.json, TextVQA_Rosetta_OCR_v0.2_train.json, TextVQA_Rosetta_OCR_v0.2_val.json; "
    "images: https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
    "files": "TextVQA_0.5.1_{train,val}.json, TextVQA_Rosetta_OCR_v0.2_{train,val}.json, train_images/",
    "licence": "CC BY 4.0; images: OpenImages, CC BY 2.0",
    "citation": "Singh et al. 2019, Towards VQA Models That Can Read, arXiv 1904.08920",
}
PROMPT = "OCR tokens: {ocr}. Question: {question} Short answer:"
PARTS = {"train": "train", "test": "val"}


def rows(place: Path, *, split: str, ocr: bool = True) -> Iterator[Row | DataError]:
    """A row per question; the answers are the annotators', the most common first.

    Args:
        place: folder with the files of `ABOUT`.
        split: `train` or `test`.
        ocr: give the field `ocr`, the tokens of the image in the file's order with commas between (empty when
            nothing was read); False reads no OCR file, for prompts without it.
    """
    path, *read_there = files(place, split=split, ocr=ocr)
    tokens = _tokens(*read_there) if ocr else None

    def made(entry: Record) -> Iterator[Row]:
        name = entry.name("image_id")
        read = {} if tokens is None else {"ocr": _read(tokens, name, entry)}
        yield Row(
            id=entry.name("question_id"),
            images=(f"train_images/{name}.jpg",),
            fields={"question": entry.text("question"), **read},
            answers=taught_first(entry.texts("answers", blank=True), origin=entry.origin),
            origin=entry.origin,
        )

    return rows_from(entries(path, under="data"), made)


def files(place: Path, *, split: str, ocr: bool = True) -> list[Path]:
    """The files that `rows` reads: questions, then OCR tokens."""
    names = [f"TextVQA_0.5.1_{PARTS[split]}.json", *([f"TextVQA_Rosetta_OCR_v0.2_{PARTS[split]}.json"] if ocr else [])]
    return [file_of(place, name) for name in names]


def _tokens(path: Path) -> Mapping[str, str]:
    """The OCR tokens of each image; the boxes of the words, most of the file, are dropped."""
    return {entry.name("image_id"): _joined(entry) for entry in sound(entries(path, under="data"))}


def _joined(entry: Record) -> str:
    return ", ".join(entry.texts("ocr_tokens", blank=True)) if entry.value.get("ocr_tokens") != [] else ""


def _read(tokens: Mapping[str, str], name: str, entry: Record) -> str:
    if name not in tokens:
        raise DataError(f"{entry.origin}: the OCR file has no image '{name}'; is it of another split?")
    return tokens[name]
