"""CVIT: the benchmark of SMoLoRA, ten tasks in CoIN's layout.

Six are learned one after another; four more test unseen tasks (Places365 is learned from few examples).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.gold_files import answers_from, gold_files
from evertune.data.instruction_files import conversations, questions
from evertune.data.records import file_of
from evertune.utils.errors import DataError

ABOUT = {
    "title": "CVIT: six visual instruction tasks, and four that are only tested",
    "source": "https://huggingface.co/datasets/zackie29/SMoLoRA (instructions); images from each data set's own home",
    "files": "Instructions_Single/<Task>/train.json and val.json or test.json; images below one root; for `gold`: "
    "TextVQA_0.5.1_val.json of https://textvqa.org/dataset/ and problems.json of https://github.com/lupantech/ScienceQA",
    "licence": "each task has that of its data set",
    "citation": "Wang et al. 2024, SMoLoRA: Exploring and Defying Dual Catastrophic Forgetting in Continual Visual "
    "Instruction Tuning, arXiv 2411.13949",
}
PROMPT = "{instruction}"


def rows(
    place: Path, *, split: str, task: str, instructions: str = "Instructions_Single", gold: str | None = None
) -> Iterator[Row | DataError]:
    """The conversations or the test questions of a task; all captions of an image count.

    Args:
        place: folder with the instruction folders.
        split: `train` or `test`.
        task: the name of the task's folder: ScienceQA, TextVQA, Flickr30k, ImageNet, GQA, VQAv2 ...
        instructions: name of the instruction folder; there is one of a single type and one of several.
        gold: as in `coin`: TextVQA_0.5.1_val.json or ScienceQA's problems.json, relative to `place`.
    """
    path, *elsewhere = files(place, split=split, task=task, instructions=instructions, gold=gold)
    if split == "train":
        return conversations(path)
    return questions(path, answers=answers_from(*elsewhere, task=task))


def files(
    place: Path, *, split: str, task: str, instructions: str = "Instructions_Single", gold: str | None = None
) -> list[Path]:
    """The files that `rows` reads: conversations or questions, then answers that are kept elsewhere."""
    inside = f"{instructions}/{task}"
    if split == "train":
        return [file_of(place, f"{inside}/train.json")]
    return [file_of(place, f"{inside}/test.json", f"{inside}/val.json"), *gold_files(place, gold, task=task)]
