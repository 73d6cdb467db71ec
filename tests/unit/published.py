"""The fixtures in the official layouts: `tests/fixtures/data` is what `--data` points to, without its images.

Everything in them is made up. `images.txt` lists the images as their publishers name them; they are drawn here.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from evertune.data.formats import Row, format_of
from evertune.data.records import sound

FIXTURES = Path(__file__).parent.parent / "fixtures"


def lay_out(folder: Path) -> Path:
    """Copy the fixtures to `folder` and draw their images."""
    shutil.copytree(FIXTURES / "data", folder, dirs_exist_ok=True)
    for number, name in enumerate((FIXTURES / "images.txt").read_text().splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 255 - number, 40)).save(folder / name)
    return folder


def rows_of(name: str, place: Path, *, split: str, **options: object) -> list[Row]:
    """All rows; the first that can't be used is raised."""
    return list(sound(format_of(name).rows(place, split=split, **options)))


@dataclass(frozen=True)
class Case:
    """A call of a format, and the files that it reads."""

    format: str
    root: str
    split: str
    files: tuple[str, ...]
    options: dict[str, object] = field(default_factory=dict)

    def rows(self, data: Path) -> list[Row]:
        return rows_of(self.format, data / self.root, split=self.split, **self.options)

    def __str__(self) -> str:
        return "-".join([self.format, self.split, *map(str, self.options.values())]).replace("/", "-")


def _parts(name: str, root: str, *files: str, **options: object) -> list[Case]:
    """Training and test of a data set; `{}` in a file's name is the name of the part."""
    parts = {"train": options.pop("train", "train"), "test": options.pop("test", "val")}
    return [Case(name, root, s, tuple(f.format(p) for f in files), options) for s, p in parts.items()]


def _task(name: str, root: str, train: str, *test: str, **options: object) -> list[Case]:
    return [Case(name, root, "train", (train,), options), Case(name, root, "test", test, options)]


INSIDE = "Instructions_Original"
COCO_PARTS = {"train": "train2014", "test": "val2014"}
QUESTIONS, ANNOTATIONS = "OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json"
CASES = [
    *_parts("flickr30k", "Flickr30k", "dataset_flickr30k.json"),
    *_parts("textcaps", "TextCaps", "TextCaps_0.1_{}.json"),
    *_parts("vqav2", "VQAv2", f"v2_{QUESTIONS}", f"v2_{ANNOTATIONS}", **COCO_PARTS),
    *_parts("okvqa", "OKVQA", QUESTIONS, ANNOTATIONS, **COCO_PARTS),
    *_parts("aokvqa", "AOKVQA", "aokvqa_v1p0_{}.json"),
    *_parts("aokvqa", "AOKVQA", "aokvqa_v1p0_{}.json", answer="direct"),
    *_parts("gqa", "GQA", "{}_balanced_questions.json", test="testdev"),
    *_parts("ocrvqa", "OCR-VQA", "dataset.json"),
    *_parts("vizwiz", "VizWiz", "{}.json"),
    *_parts("textvqa", "TextVQA", "TextVQA_0.5.1_{}.json", "TextVQA_Rosetta_OCR_v0.2_{}.json"),
    Case("seed-bench", "SEED-Bench", "test", ("SEED-Bench.json",)),
    *_task("coin", "CoIN", f"{INSIDE}/ScienceQA/train.json", f"{INSIDE}/ScienceQA/test.json", task="ScienceQA"),
    *_task("coin", "CoIN", f"{INSIDE}/Grounding/train.json", f"{INSIDE}/Grounding/test.json", task="Grounding"),
    Case(
        "coin",
        "CoIN",
        "test",
        (f"{INSIDE}/TextVQA/val.json", "../TextVQA/TextVQA_0.5.1_val.json"),
        {"task": "TextVQA", "gold": "../TextVQA/TextVQA_0.5.1_val.json"},
    ),
    Case(
        "coin",
        "CoIN",
        "test",
        (f"{INSIDE}/ScienceQA/test.json", "../ScienceQA/problems.json"),
        {"task": "ScienceQA", "gold": "../ScienceQA/problems.json"},
    ),
    *_task("ucit", "UCIT", "ArxivQA/train_4w.json", "ArxivQA/test_3000.json", task="ArxivQA"),
    *_task(
        "ucit", "UCIT", "VizWiz/train.json", "VizWiz/test_3000.json", "VizWiz/val_coco_type_3000.json", task="VizWiz"
    ),
    *_task("mllm-cl", "MLLM-CL", "Med/train.json", "Med/test.json", task="Med", suffix=" Answer."),
    *_task("mllm-cl", "MLLM-CL", "VP/train.json", "CV-Benchv2/test.json", task="VP"),
    *_task("mllm-cl", "MLLM-CL", "OCR/train.json", "OCR_test/test.json", task="OCR"),
    *_task(
        "cvit",
        "CVIT",
        "Instructions_Single/Flickr30k/train.json",
        "Instructions_Single/Flickr30k/val.json",
        task="Flickr30k",
    ),
    *_task("ctbench", "CTBench", "reasoning_train/counting.json", "reasoning_test/counting.json", task="counting"),
    *_task(
        "ctbench",
        "CTBench",
        "llava_train/counting.json",
        "llava_eval/counting.jsonl",
        "reasoning_test/counting.json",
        task="counting",
        layout="llava",
    ),
]
