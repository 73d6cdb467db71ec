"""UCIT: six tasks that LLaVA has hardly seen, in the layout of HiDe-LLaVA or of MCITlib.

Two of them are captioned images whose references are in a file beside the test list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.instruction_files import conversations, question, questions
from evertune.data.records import Record, entries, file_of, one_of, rows_from, sound
from evertune.utils.errors import DataError

ABOUT = {
    "title": "UCIT: six instruction-tuning tasks that are new to the model",
    "source": "https://huggingface.co/datasets/HaiyangGuo/UCIT or https://huggingface.co/datasets/MLLM-CL/UCIT; "
    "images of ArxivQA, VizWiz, IconQA, CLEVR and Flickr30k from their own homes",
    "files": "<Task>/train.json, train_4w.json or train_brief_4w.json; <Task>/test.json or test_3000.json; for VizWiz "
    "and Flickr30k val_coco_type_3000.json too (all of them also in instructions/); images below the same root",
    "licence": "instructions: CC BY 4.0; each task's images have that of their data set",
    "citation": "Guo et al. 2025, HiDe-LLaVA, arXiv 2503.12941",
}
PROMPT = "{instruction}"
FOLDERS = {
    "ImageNet-R": ("ImageNet-R",),
    "ArxivQA": ("ArxivQA",),
    "VizWiz": ("VizWiz", "VizWiz-caption"),
    "IconQA": ("IconQA",),
    "CLEVR-Math": ("CLEVR-Math", "CLEVR"),
    "Flickr30k": ("Flickr30k",),
}
CAPTIONED = ("VizWiz", "Flickr30k")
FILES = {
    "train": ("train_brief_4w.json", "train_4w.json", "train.json"),
    "test": ("test_3000.json", "test.json"),
    "captions": ("val_coco_type_3000.json",),
}


def rows(place: Path, *, split: str, task: str) -> Iterator[Row | DataError]:
    """The conversations or the test questions of a task.

    Args:
        place: folder with a folder per task.
        split: `train` or `test`.
        task: one of `FOLDERS`.
    """
    path, *captions = files(place, split=split, task=task)
    if split == "train":
        return conversations(path)
    return _captioned(path, *captions) if captions else questions(path)


def files(place: Path, *, split: str, task: str) -> list[Path]:
    """The files that `rows` reads: conversations or questions, then captions."""
    one_of(task, tuple(FOLDERS), kind="task")
    captioned = split == "test" and task in CAPTIONED
    return [_file(place, task, kind) for kind in (split, *(["captions"] if captioned else []))]


def _file(place: Path, task: str, kind: str) -> Path:
    folders = [f"{above}{folder}" for above in ("", "instructions/") for folder in FOLDERS[task]]
    return file_of(place, *(f"{folder}/{name}" for folder in folders for name in FILES[kind]))


def _captioned(path: Path, captions_path: Path) -> Iterator[Row | DataError]:
    """Test rows with the captions under their number, from 1.

    A row without a caption is an error, and so is a caption without a row (an early release lacked one of 3,000).
    """
    captions = _captions(captions_path)
    used: set[str] = set()

    def made(entry: Record) -> Iterator[Row]:
        used.add(entry.key)
        if entry.key not in captions:
            raise DataError(f"{entry.origin}: {captions_path} has no caption with 'image_id' {entry.key}")
        yield question(entry, answers=lambda entry: captions[entry.key])

    yield from rows_from(entries(path), made)
    for name in captions.keys() - used:
        yield DataError(f"{captions_path}: the 'image_id' {name} is no row of {path}")


def _captions(path: Path) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for entry in sound(entries(path, under="annotations")):
        name = entry.name("image_id")
        found[name] = (*found.get(name, ()), entry.text("caption"))
    return found
