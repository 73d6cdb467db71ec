"""CTBench: tasks whose solutions come with a chain of thought, and their LLaVA-style conversion.

The conversion's test questions have no answers: they are those of the reasoning file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from evertune.errors import DataError
from evertune.tasks.entries import Entry, entries, file_of, one_of
from evertune.tasks.formats import Row
from evertune.tasks.instruction_files import conversations, images_of, instruction, questions

ABOUT = {
    "title": "CTBench: continual instruction tuning with reasoning",
    "source": "https://huggingface.co/datasets/yueluoshuangtian/MLLM-CITBench",
    "files": "reasoning_train/<task>.json, reasoning_test/<task>.json; converted: llava_train/<task>.json, "
    "llava_eval/<task>.jsonl; pictures: img.zip, unpacked in the same folder",
    "licence": "each task has that of its data set",
    "citation": "Guo et al. 2025, MLLM-CTBench, arXiv 2508.08275",
}
PROMPT = "{instruction}"
THOUGHT_ENDS = "</think>"


def rows(place: Path, *, split: str, task: str, layout: str = "reasoning", taught: str = "answer") -> Iterator[Row]:
    """The problems of a task.

    Args:
        place: folder with the files of `ABOUT`.
        split: `train` or `test`.
        task: the name of the task's files.
        layout: `reasoning` or `llava`, the converted files.
        taught: of the layout `reasoning`: `answer`, what follows the thought, or `solution`, thought and answer. A
            test is always scored by the answer.
    """
    one_of(layout, ("reasoning", "llava"), kind="layout")
    one_of(taught, ("answer", "solution"), kind="taught")
    if layout == "reasoning":
        path = file_of(place, f"reasoning_{split}/{task}.json")
        return _problems(path, whole=split == "train" and taught == "solution")
    if split == "train":
        return conversations(file_of(place, f"llava_train/{task}.json"))
    return _converted(file_of(place, f"llava_eval/{task}.jsonl"), file_of(place, f"reasoning_test/{task}.json"))


def _problems(path: Path, *, whole: bool) -> Iterator[Row]:
    for number, entry in enumerate(entries(path), start=1):
        yield Row(
            id=str(number),
            images=images_of(entry),
            fields={"instruction": instruction(entry, "problem")},
            answers=(entry.text("solution") if whole else _answer(entry),),
            origin=entry.origin,
        )


def _answer(entry: Entry) -> str:
    """What stands behind the thought."""
    answer = entry.text("solution").rpartition(THOUGHT_ENDS)[2].strip()
    if not answer:
        raise entry.wrong("solution", f"a text with an answer after {THOUGHT_ENDS}")
    return answer


def _converted(path: Path, problems: Path) -> Iterator[Row]:
    """Converted test questions, with the answers of the problems that have their text and pictures."""
    gold = _by_problem(problems)

    def answers(entry: Entry) -> tuple[str, ...]:
        asked = (instruction(entry, "text"), *images_of(entry))
        if asked not in gold:
            raise DataError(f"{entry.origin}: {problems} has no problem with this text and picture")
        return (gold[asked],)

    return questions(path, answers=answers)


def _by_problem(path: Path) -> Mapping[tuple[str, ...], str]:
    return {(instruction(entry, "problem"), *images_of(entry)): _answer(entry) for entry in entries(path)}
