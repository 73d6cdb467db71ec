"""VQAv2: questions about COCO photographs, ten annotators each.

Its test answers are not public, so the validation part is the test. The model trains on the most common answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.annotators import vqa_files, vqa_rows
from evertune.data.formats import Row
from evertune.utils.errors import DataError

ABOUT = {
    "title": "VQAv2: questions about COCO photographs, ten annotators each; tested on val2014",
    "source": "https://visualqa.org/download.html: https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/"
    "v2_Questions_Train_mscoco.zip, v2_Questions_Val_mscoco.zip, v2_Annotations_Train_mscoco.zip, "
    "v2_Annotations_Val_mscoco.zip; images: http://images.cocodataset.org/zips/train2014.zip, val2014.zip",
    "files": "v2_OpenEnded_mscoco_{train,val}2014_questions.json, v2_mscoco_{train,val}2014_annotations.json; "
    "images: {train,val}2014/COCO_{train,val}2014_*.jpg",
    "licence": "annotations: CC BY 4.0; photographs: their authors', under Flickr's terms of use",
    "citation": "Goyal et al. 2017, Making the V in VQA Matter, arXiv 1612.00837",
}
PROMPT = "Question: {question} Short answer:"
FILES = ("v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")


def rows(place: Path, *, split: str) -> Iterator[Row | DataError]:
    """A row per question; the answers are the annotators', the most common first."""
    return vqa_rows(*files(place, split=split), split=split)


def files(place: Path, *, split: str) -> list[Path]:
    """The files that `rows` reads: questions, annotations."""
    return vqa_files(place, FILES, split=split)
