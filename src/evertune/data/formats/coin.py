"""CoIN: eight tasks as instructions, the first benchmark of continual instruction tuning with LLaVA.

Images are those of the data sets that its tasks were taken from, below one root.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.gold_files import answers_from, gold_files
from evertune.data.instruction_files import conversations, questions
from evertune.data.records import Record, file_of, one_of
from evertune.utils.errors import DataError
from evertune.utils.parsing import json_value

ABOUT = {
    "title": "CoIN: eight instruction-tuning tasks",
    "source": "https://huggingface.co/datasets/Zacks-Chen/CoIN (instructions), https://github.com/zackschen/CoIN "
    "(where the images are from)",
    "files": "Instructions_Original/<Task>/train.json and test.json or val.json (the same of Instructions_Type2); "
    "images: COCO2014/train2014, GQA/images, OCR-VQA/images, TextVQA/train_images, TextVQA/test_images, ScienceQA, "
    "VizWiz and ImageNet below one root; for `gold`: TextVQA_0.5.1_val.json of https://textvqa.org/dataset/ and "
    "problems.json of https://github.com/lupantech/ScienceQA",
    "licence": "each task has that of its data set",
    "citation": "Chen et al. 2024, CoIN: A Benchmark of Continual Instruction Tuning, arXiv 2403.08350",
}
PROMPT = "{instruction}"
TASKS = ("ScienceQA", "TextVQA", "ImageNet", "GQA", "VizWiz", "Grounding", "VQAv2", "OCRVQA")


def rows(
    place: Path, *, split: str, task: str, instructions: str = "Original", gold: str | None = None
) -> Iterator[Row | DataError]:
    """The conversations or the test questions of a task.

    Args:
        place: folder with the instruction folders.
        split: `train` or `test`.
        task: one of `TASKS`.
        instructions: `Original` or `Type2`.
        gold: TextVQA_0.5.1_val.json or ScienceQA's problems.json, relative to `place`: the authors score these two
            tasks by its answers. Default: the single answer of the test file.
    """
    path, *elsewhere = files(place, split=split, task=task, instructions=instructions, gold=gold)
    if split == "train":
        return conversations(path)
    if task == "Grounding":
        return questions(path, answers=_box, extras=_size)
    return questions(path, answers=answers_from(*elsewhere, task=task))


def files(place: Path, *, split: str, task: str, instructions: str = "Original", gold: str | None = None) -> list[Path]:
    """The files that `rows` reads: conversations or questions, then answers that are kept elsewhere."""
    one_of(task, TASKS, kind="task")
    inside = f"Instructions_{one_of(instructions, ('Original', 'Type2'), kind='instructions')}/{task}"
    if split == "train":
        return [file_of(place, f"{inside}/train.json")]
    return [file_of(place, f"{inside}/test.json", f"{inside}/val.json"), *gold_files(place, gold, task=task)]


def _box(entry: Record) -> tuple[str, ...]:
    """`[x1, y1, x2, y2]` as text, in parts of the longer side after padding to a square."""
    text = entry.text("answer_bbox")
    try:
        box = json_value(text)
    except ValueError:
        box = None
    if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):
        raise entry.wrong("answer_bbox", "the text of four numbers, like '[0.1, 0.2, 0.5, 0.6]'")
    return (text,)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _size(entry: Record) -> Mapping[str, str]:
    """Width and height of the image in pixels, where the row says them."""
    if not entry.has("size"):
        return {}
    size = entry.value["size"]
    if not isinstance(size, list) or len(size) != 2 or not all(_finite(side) and side > 0 for side in size):
        raise entry.wrong("size", "width and height, like [640, 480]")
    return {"width": str(size[0]), "height": str(size[1])}
