"""Gold answers that an instruction-tuning benchmark takes from the original data set of a task.

The test lists of CoIN and CVIT hold one answer per question; TextVQA is scored against ten annotators and ScienceQA
against the data set's own solution, both found by the question's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evertune.data.annotators import taught_first
from evertune.data.instruction_files import Answers, matched
from evertune.data.records import entries, entries_by_id, file_of, sound
from evertune.utils.errors import UserError

LETTERS = "ABCDEFGHIJ"


def gold_files(place: Path, gold: str | None, *, task: str) -> list[Path]:
    """The file `gold` below `place` that has the answers of `task`, if one is named.

    Raises:
        UserError: the answers of this task are not kept elsewhere.
    """
    if gold is None:
        return []
    if task not in READERS:
        raise UserError(f"'gold' is for {' and '.join(READERS)}; the answers of {task} stand in its test file")
    return [file_of(place, gold)]


def answers_from(path: Path | None = None, *, task: str) -> Answers | None:
    """How a test row of `task` finds its answers in `path`; None: they stand in the row."""
    return None if path is None else matched(READERS[task](path), where=path)


def textvqa_answers(path: Path) -> Mapping[str, tuple[str, ...]]:
    """The annotators' answers of TextVQA's own file, by question id."""
    return {
        entry.name("question_id"): taught_first(entry.texts("answers", blank=True), origin=entry.origin)
        for entry in sound(entries(path, under="data"))
    }


def scienceqa_answers(path: Path) -> Mapping[str, tuple[str, ...]]:
    """The letter of the right choice and its text, from ScienceQA's `problems.json`, by problem id."""
    found = {}
    for entry in sound(entries_by_id(path)):
        place, choices = entry.number("answer"), entry.texts("choices")
        if not 0 <= place < min(len(choices), len(LETTERS)):
            raise entry.wrong("answer", f"the number of one of {len(choices)} choices, from 0")
        found[entry.key] = (LETTERS[place], choices[place])
    return found


READERS = {"TextVQA": textvqa_answers, "ScienceQA": scienceqa_answers}
