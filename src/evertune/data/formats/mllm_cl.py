"""MLLM-CL: five domains (DCL) and four abilities (ACL) learned one after another.

Domains keep training and test in one folder, abilities in two. Some rows have several images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.instruction_files import conversations, questions, stated_extras
from evertune.data.records import file_of, one_of
from evertune.utils.errors import DataError

ABOUT = {
    "title": "MLLM-CL: continual learning of domains (DCL) and of abilities (ACL)",
    "source": "https://huggingface.co/datasets/MLLM-CL/MLLM-CL, https://github.com/bjzhb666/MLLM-CL",
    "files": "<Domain>/train.json, test.json and images/; <Ability>/train.json, <Ability>_test/test.json (VP also "
    "CV-Benchv2/test.json), each with images/",
    "licence": "Apache-2.0 (code and instructions); each task's images have that of their data set",
    "citation": "Zhao et al. 2025, MLLM-CL: Continual Learning for Multimodal Large Language Models, arXiv 2506.05453",
}
PROMPT = "{instruction}"
DOMAINS = ("RS", "Med", "AD", "Sci", "Fin")
ABILITIES = ("OCR", "Math", "VP", "APP")


def rows(place: Path, *, split: str, task: str, suffix: str = "") -> Iterator[Row | DataError]:
    """The conversations or the test questions of a domain or ability; names of images count from the task's folder.

    Args:
        place: folder with a folder per task.
        split: `train` or `test`.
        task: one of `DOMAINS` or `ABILITIES`.
        suffix: added to the instructions of test rows, as the authors' evaluation does for Med.
    """
    (path,) = files(place, split=split, task=task)
    return conversations(path, folder=task, together=True) if split == "train" else _tested(path, suffix=suffix)


def files(place: Path, *, split: str, task: str, **_: object) -> list[Path]:
    """The file that `rows` reads."""
    one_of(task, DOMAINS + ABILITIES, kind="task")
    if split == "train":
        return [file_of(place, f"{task}/train.json")]
    folders = [task] if task in DOMAINS else [f"{task}_test", *(["CV-Benchv2"] if task == "VP" else [])]
    return [file_of(place, *(f"{folder}/test.json" for folder in folders))]


def _tested(path: Path, *, suffix: str) -> Iterator[Row | DataError]:
    for row in questions(path, folder=path.parent.name, extras=stated_extras("answer_type", "type", "task")):
        if isinstance(row, DataError) or not suffix:
            yield row
        else:
            yield replace(row, fields={"instruction": row.fields["instruction"] + suffix})
