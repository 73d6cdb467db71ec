"""CTBench: tasks whose solutions come with a chain of thought, and their LLaVA-style conversion.

The conversion's test questions have no answers: they are those of the reasoning file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.instruction_files import conversations, images_of, instruction, questions
from evertune.data.records import Record, entries, file_of, one_of, rows_from, sound
from evertune.utils.errors import DataError

ABOUT = {
    "title": "CTBench: continual instruction tuning with reasoning",
    "source": "https://huggingface.co/datasets/yueluoshuangtian/MLLM-CITBench",
    "files": "reasoning_train/<task>.json, reasoning_test/<task>.json; converted: llava_train/<task>.json, "
    "llava_eval/<task>.jsonl; images: img.zip, unpacked in the same folder",
    "licence": "each task has that of its data set",
    "citation": "Guo et al. 2025, MLLM-CTBench, arXiv 2508.08275",
}
PROMPT = "{instruction}"
THOUGHT_ENDS = "</think>"


def rows(
    place: Path, *, split: str, task: str, layout: str = "reasoning", taught: str = "answer"
) -> Iterator[Row | DataError]:
    """The problems of a task.

    Args:
        place: folder with the files of `ABOUT`.
        split: `train` or `test`.
        task: the name of the task's files.
        layout: `reasoning` or `llava`, the converted files.
        taught: of the layout `reasoning`: `answer` (the text after the thought) or `solution` (thought and answer). A
            test is always scored by the answer.
    """
    one_of(taught, ("answer", "solution"), kind="taught")
    path, *problems = files(place, split=split, task=task, layout=layout)
    if layout == "reasoning":
        whole = split == "train" and taught == "solution"
        return rows_from(entries(path), lambda entry: [_problem(entry, whole=whole)])
    return conversations(path) if split == "train" else _converted(path, *problems)


def files(place: Path, *, split: str, task: str, layout: str = "reasoning", **_: object) -> list[Path]:
    """The files that `rows` reads: problems, conversations or questions, then the problems that have the answers."""
    if one_of(layout, ("reasoning", "llava"), kind="layout") == "reasoning":
        return [file_of(place, f"reasoning_{split}/{task}.json")]
    if split == "train":
        return [file_of(place, f"llava_train/{task}.json")]
    return [file_of(place, f"llava_eval/{task}.jsonl"), file_of(place, f"reasoning_test/{task}.json")]


def _problem(entry: Record, *, whole: bool) -> Row:
    images = images_of(entry)
    return Row(
        id=entry.key,
        images=images,
        fields={"instruction": instruction(entry, "problem", images=len(images))},
        answers=(entry.text("solution") if whole else _answer(entry),),
        origin=entry.origin,
    )


def _answer(entry: Record) -> str:
    """The text after the chain of thought."""
    answer = entry.text("solution").rpartition(THOUGHT_ENDS)[2].strip()
    if not answer:
        raise entry.wrong("solution", f"a text with an answer after {THOUGHT_ENDS}")
    return answer


def _converted(path: Path, problems: Path) -> Iterator[Row | DataError]:
    """Converted test questions with the answers of the problems that have the same text and images."""
    gold = {_question_of(entry, "problem"): _answer(entry) for entry in sound(entries(problems))}

    def answers(entry: Record) -> tuple[str, ...]:
        question = _question_of(entry, "text")
        if question not in gold:
            raise DataError(f"{entry.origin}: {problems} has no problem with this text and image")
        return (gold[question],)

    return questions(path, answers=answers)


def _question_of(entry: Record, key: str) -> tuple[str, ...]:
    images = images_of(entry)
    return (instruction(entry, key, images=len(images)), *images)
