"""Answers that an instruction-tuning benchmark leaves in the files of the data set that it took a task from.

The test lists of CoIN and CVIT hold one answer per question; TextVQA is scored against ten annotators and ScienceQA
against the data set's own solution, both found by the question's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evertune.errors import UserError
from evertune.tasks.annotators import taught_first
from evertune.tasks.entries import entries, entries_by_id, file_of
from evertune.tasks.instruction_files import Answers, matched

LETTERS = "ABCDEFGHIJ"


def answers_from(place: Path, gold: str | None, *, task: str) -> Answers | None:
    """How a test row of `task` finds its answers in the file `gold` below `place`; None: they stand in the row.

    Raises:
        UserError: the answers of this task are not kept elsewhere.
    """
    if gold is None:
        return None
    if task not in READERS:
        raise UserError(f"'gold' is for {' and '.join(READERS)}; the answers of {task} stand in its test file")
    path = file_of(place, gold)
    return matched(READERS[task](path), where=path)


def textvqa_answers(path: Path) -> Mapping[str, tuple[str, ...]]:
    """The annotators' answers of TextVQA's own file, by question id."""
    return {
        entry.name("question_id"): taught_first(entry.texts("answers", blank=True), origin=entry.origin)
        for entry in entries(path, under="data")
    }


def scienceqa_answers(path: Path) -> Mapping[str, tuple[str, ...]]:
    """The letters of ScienceQA's `problems.json`, by problem id."""
    found = {}
    for name, entry in entries_by_id(path):
        place, count = entry.number("answer"), len(entry.texts("choices", blank=True))
        if not 0 <= place < min(count, len(LETTERS)):
            raise entry.wrong("answer", f"the number of one of {count} choices, from 0")
        found[name] = (LETTERS[place],)
    return found


READERS = {"TextVQA": textvqa_answers, "ScienceQA": scienceqa_answers}
