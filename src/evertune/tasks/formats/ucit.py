"""UCIT: six tasks that LLaVA has hardly seen, in the layout of HiDe-LLaVA or of MCITlib.

Two of them are captioned pictures whose references are in a file beside the test list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from evertune.errors import DataError
from evertune.tasks.entries import entries, file_of, one_of
from evertune.tasks.formats import Row
from evertune.tasks.instruction_files import conversations, questions

ABOUT = {
    "title": "UCIT: six instruction-tuning tasks that are new to the model",
    "source": "https://huggingface.co/datasets/HaiyangGuo/UCIT or https://huggingface.co/datasets/MLLM-CL/UCIT; "
    "pictures of ArxivQA, VizWiz, IconQA, CLEVR and Flickr30k from their own homes",
    "files": "<Task>/train.json, train_4w.json or train_brief_4w.json; <Task>/test.json or test_3000.json; for VizWiz "
    "and Flickr30k val_coco_type_3000.json too (all of them also in instructions/); pictures below the same root",
    "licence": "instructions: CC BY 4.0; each task's pictures have that of their data set",
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


def rows(place: Path, *, split: str, task: str) -> Iterator[Row]:
    """The conversations or the test questions of a task.

    Args:
        place: folder with a folder per task.
        split: `train` or `test`.
        task: one of `FOLDERS`.
    """
    one_of(task, tuple(FOLDERS), kind="task")
    if split == "train":
        return conversations(_file(place, task, "train"))
    if task in CAPTIONED:
        return _captioned(_file(place, task, "test"), _file(place, task, "captions"))
    return questions(_file(place, task, "test"))


def _file(place: Path, task: str, kind: str) -> Path:
    inside = [
        f"{above}{folder}/{name}" for above in ("", "instructions/") for folder in FOLDERS[task] for name in FILES[kind]
    ]
    return file_of(place, *inside)


def _captioned(path: Path, captions_path: Path) -> Iterator[Row]:
    """Test rows with the captions that stand under their number, from 1.

    Raises:
        DataError: a row has no caption, or a caption no row (an early release lacked one of 3,000).
    """
    captions = _captions(captions_path)
    number = 0
    for number, row in enumerate(questions(path, answers=lambda _: ()), start=1):
        if str(number) not in captions:
            raise DataError(f"{row.origin}: {captions_path} has no caption with 'image_id' {number}")
        yield replace(row, answers=captions[str(number)])
    if len(captions) != number:
        raise DataError(f"{captions_path} has captions of {len(captions)} pictures, {path} has {number}")


def _captions(path: Path) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries(path, under="annotations"):
        name = entry.name("image_id")
        found[name] = (*found.get(name, ()), entry.text("caption"))
    return found
