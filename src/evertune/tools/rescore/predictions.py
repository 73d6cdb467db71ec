"""Read predictions: `merge.jsonl`, `ans_gt.json`, lists of answers; and the totals of a `Result.text`.

The layouts are those of the LLaVA family of evaluators; which one a file has is seen from the file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.tools.rescore.reading import first_of, name_of, parsed, read_lines, read_text
from evertune.utils.errors import DataError

ID_KEYS = ("question_id", "questionId", "image_id", "id")
TEXT_KEYS = (
    ("prediction", "pred", "predict", "predicted_answer", "model_answer", "model_output", "generated_text"),
    ("response", "output", "completion", "text"),
    ("caption", "answer"),
)
"""Where a prediction stands, the surest names first: the last ones are also names of the gold, `text` of a question."""
QUESTION_KEYS = ("prompt", "question", "instruction", "query")
TOTALS = ("Result.text", "Result.txt")
TOTAL = re.compile(r"^[ \t]*([A-Za-z][\w -]*): ([0-9]+(?:\.[0-9]+)?)%?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One answer of a model.

    Attributes:
        origin: line or number in its file, for messages.
        gold: the answers that the file itself has beside it (`ans_gt.json`).
        prompt: the question, where the file has it.
    """

    id: str
    text: str
    origin: str
    gold: tuple[str, ...] = ()
    prompt: str = ""


def read_predictions(path: Path, *, key: str | None = None) -> list[PredictionRecord]:
    """Every answer of a file, in its order.

    Args:
        path: JSONL or a JSON list.
        key: of the prediction in each row; default: the surest of `TEXT_KEYS`, the same in all rows.

    Raises:
        DataError: not a file of answers, or a row has several texts that could be the prediction; the message names
            line and column, or the row.
    """
    text = read_text(path)
    if text.lstrip().startswith("Samples:"):
        raise DataError(f"{path} holds totals only: give the file of answers, which is beside it (merge.jsonl)")
    if text.lstrip().startswith("["):
        rows = [(f"{path}, entry {number}", row) for number, row in enumerate(parsed(text, path), start=1)]
    else:
        rows = [(f"{path}, line {number}", row) for number, row in read_lines(text, path)]
    if not rows:
        raise DataError(f"{path} holds no answers")
    key = key or _text_key(rows)
    return [_predicted(row, origin, number, key) for number, (origin, row) in enumerate(rows, start=1)]


def read_totals(answers: Path) -> dict[str, float]:
    """What the `Result.text` beside a file of answers reports: `{"Samples": 3000, "Accuracy": 61.2}`; may be empty."""
    for name in TOTALS:
        place = answers.parent / name
        if place.is_file():
            return {found.group(1): float(found.group(2)) for found in TOTAL.finditer(read_text(place))}
    return {}


def _text_key(rows: Sequence[tuple[str, Any]]) -> str:
    """Which key of the rows holds the prediction, by the first one; others must not differ from it in any row."""
    origin, first = rows[0]
    _check_row(first, origin)
    found = next((here for keys in TEXT_KEYS if (here := [key for key in keys if key in first])), [])
    if found == ["text"] and not any(key in first for key in QUESTION_KEYS):
        found += [key for key in TEXT_KEYS[-1] if key in first]  # `text` may be the question
    if not found:
        keys = ", ".join(key for keys in TEXT_KEYS for key in keys)
        raise DataError(f"{origin}: no prediction; expected one of {keys}")
    for origin, row in rows:
        if isinstance(row, dict) and any(row.get(key) != row.get(found[0]) for key in found):
            names = " and ".join(f"'{key}'" for key in found)
            raise DataError(f"{origin}: {names} differ, one may be the gold: say which is predicted, --prediction KEY")
    return found[0]


def _check_row(row: Any, origin: str) -> None:
    if not isinstance(row, dict):
        raise DataError(f"{origin}: expected an object with question_id and text, found {type(row).__name__}")


def _predicted(row: Any, origin: str, number: int, key: str) -> PredictionRecord:
    _check_row(row, origin)
    if key not in row:
        raise DataError(f"{origin}: no '{key}', which has the prediction")
    text = row[key]
    if not isinstance(text, str):
        raise DataError(f"{origin}: '{key}' is {type(text).__name__}, expected a text")
    prompt = row.get("prompt")
    return PredictionRecord(
        id=_id(row, origin, number),
        text=text,
        origin=origin,
        gold=_gold(row, origin),
        prompt=prompt if isinstance(prompt, str) else "",
    )


def _id(row: dict[str, Any], origin: str, number: int) -> str:
    found = first_of(row, ID_KEYS)
    if found is None:
        if "ground_truth" in row:
            return str(number)  # ans_gt.json has no ids: answer and gold stand side by side
        raise DataError(f"{origin}: no question id; expected one of {', '.join(ID_KEYS)}")
    name = name_of(found[1])
    if name is None:
        raise DataError(f"{origin}: '{found[0]}' is {type(found[1]).__name__}, expected a text or a whole number")
    return name


def _gold(row: dict[str, Any], origin: str) -> tuple[str, ...]:
    if "ground_truth" not in row:
        return ()
    value = row["ground_truth"]
    golds = value if isinstance(value, list) else [value]
    if not golds or not all(isinstance(gold, str) for gold in golds):
        raise DataError(f"{origin}: 'ground_truth' must be a text, or a list of texts with one at least")
    return tuple(golds)
