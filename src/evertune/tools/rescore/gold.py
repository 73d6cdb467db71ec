"""Read gold files in the layouts that their authors publish: test.json, TextVQA, ScienceQA, COCO captions, GQA, VQAv2.

Each reader gives one `Gold` per question, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evertune.data.formats import format_of
from evertune.data.records import number_text, sound
from evertune.tools.rescore.reading import first_of, name_of, read_json, read_rows
from evertune.utils.errors import DataError

ID_KEYS = ("question_id", "questionId", "id", "image")
ANSWER_KEYS = ("answer", "answers")
KEPT = ("answer_type", "image", "image_id", "question", "type", "task", "text")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Gold:
    """The answers to one question, the trained one first, and what else a public evaluator looks at."""

    id: str
    answers: tuple[str, ...]
    extras: Mapping[str, str] = field(default_factory=dict)


Reader = Callable[[Path, str], list[Gold]]


def questions(path: Path, _split: str) -> list[Gold]:
    """`test.json` of CoIN, UCIT, MLLM-CL and CVIT: a list of objects with `question_id` and `answer`."""
    return [_question(row, where) for row, where in _numbered(path, "entry")]


def published(name: str, **options: Any) -> Reader:
    """The reader of a data set in the layout that the format of this name reads (`data/formats`)."""

    def read(path: Path, _split: str) -> list[Gold]:
        rows = sound(format_of(name).rows(path, split="test", **options))
        return [Gold(row.id, row.answers, row.extras) for row in rows]

    return read


def grounding(path: Path, _split: str) -> list[Gold]:
    """CoIN's Grounding/test.json: `answer_bbox` is a text in the square, padded frame."""
    return [_gold(row, "answer_bbox", where) for row, where in _numbered(path, "entry")]


def textvqa(path: Path, _split: str) -> list[Gold]:
    """`TextVQA_0.5.1_val.json`: `data` holds `question_id` and ten `answers` each."""
    return [_question(row, where) for row, where in _numbered(path, "data", under="data")]


def vqav2(path: Path, _split: str) -> list[Gold]:
    """`v2_mscoco_val2014_annotations.json`: `annotations` with ten `answers`, objects with `answer`."""
    return [_gold(row, "answers", where) for row, where in _numbered(path, "annotation", under="annotations")]


def gqa(path: Path, split: str) -> list[Gold]:
    """`testdev_balanced_questions.json`: an object, question ids to objects with `answer`; or a `test.json`."""
    content = read_json(path)
    if isinstance(content, list):
        return questions(path, split)
    rows = _filled(content, dict, path, "an object, question ids with their questions")
    return [Gold(name, _answers(_need(row, "answer", f"{path}, '{name}'"), path)) for name, row in rows.items()]


def scienceqa(path: Path, split: str) -> list[Gold]:
    """`problems.json`: an object, problem ids to `choices` and the index `answer`; answers are the letter and its text.

    The problems of `split` are those of `pid_splits.json` beside it, else those whose own `split` says so.
    """
    problems = _filled(read_json(path), dict, path, "an object, problem ids with their problems")
    beside = path.parent / "pid_splits.json"
    if beside.is_file():
        names = [str(name) for name in _filled(_need(read_json(beside), split, beside), list, beside, "a list of ids")]
    else:
        names = [name for name, row in problems.items() if isinstance(row, dict) and row.get("split", split) == split]
    if not names:
        raise DataError(f"{path} holds no problems of the split '{split}'; choose one with --split")
    return [_problem(name, _need(problems, name, path), f"{path}, '{name}'") for name in names]


def coco(path: Path, _split: str) -> list[Gold]:
    """A COCO-style caption file: `annotations` with `image_id` and `caption`, several per image; by number."""
    captions: dict[str, list[str]] = {}
    for row, where in _numbered(path, "annotation", under="annotations"):
        name = name_of(_need(row, "image_id", where))
        caption = _need(row, "caption", where)
        if name is None or not isinstance(caption, str):
            raise DataError(f"{where}: image_id must be a whole number or a text, caption a text")
        captions.setdefault(name, []).append(caption)
    by_number = sorted(captions.items(), key=lambda item: (len(item[0]), item[0]))
    return [Gold(name, tuple(texts)) for name, texts in by_number]


def _numbered(path: Path, each: str, *, under: str | None = None) -> Iterator[tuple[Any, str]]:
    """The objects of a list, which is the file or the value of a key, and what messages call each."""
    rows = read_rows(path) if under is None else _need(read_json(path), under, path)
    whole = _filled(rows, list, path, "a list of objects" if under is None else f"'{under}', a list of objects")
    return ((row, f"{path}, {each} {number}") for number, row in enumerate(whole, start=1))


def _gold(row: Any, key: str, where: str) -> Gold:
    return Gold(_id(row, where), _answers(_need(row, key, where), where))


def _question(row: Any, where: str) -> Gold:
    found = first_of(row, ANSWER_KEYS) if isinstance(row, dict) else None
    if found is None:
        raise DataError(f"{where}: no 'answer' or 'answers'")
    extras = {key: row[key] for key in KEPT if isinstance(row.get(key), str)}
    return Gold(_id(row, where), _answers(found[1], where), extras)


def _problem(name: str, row: Any, where: str) -> Gold:
    choices, place = _need(row, "choices", where), _need(row, "answer", where)
    _filled(choices, list, where, "'choices', a list of texts")
    whole = isinstance(place, int) and not isinstance(place, bool)
    if not whole or not 0 <= place < min(len(choices), len(LETTERS)) or not isinstance(choices[place], str):
        raise DataError(f"{where}: 'answer' is {place!r}, expected the place of one of {len(choices)} choices")
    return Gold(name, (LETTERS[place], choices[place]), {"choices": str(len(choices))})


def _id(row: Any, where: str) -> str:
    found = first_of(row, ID_KEYS) if isinstance(row, dict) else None
    name = name_of(found[1]) if found else None
    if name is None:
        raise DataError(f"{where}: no question id; expected one of {', '.join(ID_KEYS)}, a text or a whole number")
    return name


def _answers(value: Any, where: Any) -> tuple[str, ...]:
    """One answer or several; those of VQAv2 and VizWiz are objects."""
    values = value if isinstance(value, list) else [value]
    texts = [entry.get("answer") if isinstance(entry, dict) else entry for entry in values]
    plain = [
        text if isinstance(text, str) else number_text(text) for text in texts if isinstance(text, str | int | float)
    ]
    if not plain or len(plain) != len(texts):
        raise DataError(f"{where}: the answer must be a text, or a list of texts with one at least, not {value!r:.60}")
    return tuple(plain)


def _need(row: Any, key: str, where: Any) -> Any:
    if not isinstance(row, dict) or key not in row:
        kind = "" if isinstance(row, dict) else f" (it is {type(row).__name__})"
        raise DataError(f"{where}: no '{key}'{kind}; is --format the right one for this gold file?")
    return row[key]


def _filled(value: Any, kind: type, where: Any, what: str) -> Any:
    if not isinstance(value, kind) or not value:
        raise DataError(f"{where}: expected {what}; is --format the right one for this gold file?")
    return value
