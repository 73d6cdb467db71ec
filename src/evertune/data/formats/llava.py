"""LLaVA-style JSON: conversations to train on, and the test files that go with them.

Training rows are `{image, conversations: [{from, value}]}` with no image, one or a list; each answered turn is a
sample whose instruction contains the turns before it. `{messages: [{role, content}]}` is read likewise
(`data/turns.py`). Test rows are `{question_id, image, text, answer}`. A file may be a JSON list, one under "data", or
JSON Lines; the keys of a row decide its kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from evertune.data.formats import Row
from evertune.data.instruction_files import conversation, question, stated
from evertune.data.reading import read_entries
from evertune.data.records import Record, rows_from
from evertune.data.turns import KEYS
from evertune.utils.errors import DataError
from evertune.utils.parsing import NotFinite

ABOUT = {
    "title": "LLaVA-style JSON: conversations (no image, one or several; one turn or more), and test questions",
    "source": "https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md",
    "files": "[{id, image, conversations: [{from: human | gpt, value}]}] to train on, or [{messages: [{role: user | "
    "assistant, content}]}]; the same, or [{question_id, image, text, answer}], to test on",
    "licence": "yours",
    "citation": "Liu et al. 2023, Visual Instruction Tuning, arXiv 2304.08485",
}
PROMPT = "{instruction}"
NO_EXTRAS = {"question_id", "id", "image", "images", "text", "answer", "answers", *KEYS}


def rows(place: Path, *, split: str) -> Iterator[Row | DataError]:
    """A row per answered turn, or per test question. Both splits are read alike."""
    del split
    return rows_from(read_entries(place), _rows)


def files(place: Path, *, split: str) -> list[Path]:
    """The file itself."""
    del split
    return [place]


def _rows(entry: Record) -> Iterator[Row]:
    if entry.has("images") and not entry.has("image"):
        entry = replace(entry, value={**entry.value, "image": entry.value["images"]})
    if entry.value.get("image") in ("", []):
        entry = replace(entry, value={**entry.value, "image": None})
    if any(entry.has(key) for key in KEYS):
        # Published training files repeat their ids (LLaVA's own mix has one per photograph): that is no mistake.
        name = entry.name("id") if entry.has("id") else entry.key
        yield from conversation(entry, name=name, unique=False)
    elif entry.has("text"):
        key = "question_id" if entry.has("question_id") else "id"
        named = {**entry.value, "question_id": entry.value.get(key, entry.key)}
        yield question(replace(entry, value=named), answers=_answers, extras=_extras)
    else:
        complaint = f"{entry.origin}: a row has 'conversations' (to train on) or 'text' and 'answer' (to test on)"
        raise DataError(complaint, kind="neither conversation nor question")


def _answers(entry: Record) -> tuple[str, ...]:
    for key in ("answer", "answers", "answer_bbox"):
        if entry.has(key):
            return stated(entry, key)
    raise DataError(
        f"{entry.origin}: the row has no 'answer'; a file of questions alone can't be scored", kind="no answer"
    )


def _extras(entry: Record) -> Mapping[str, str]:
    """Other fields of a test row (`type`, `answer_type`, `size`), which scores may use."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in entry.value.items()
        if key not in NO_EXTRAS and value is not None and not isinstance(value, dict | NotFinite)
    }
