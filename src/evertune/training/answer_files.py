"""Files of predictions, `answers/STAGE/TASK.jsonl` of a run folder, read without torch: results are also read alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evertune.utils.errors import RunFolderError
from evertune.utils.files import read_text
from evertune.utils.parsing import json_value, written_lines


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Read an answers file.

    Raises:
        RunFolderError: missing or damaged; the message names file and line.
    """
    if not path.exists():
        raise RunFolderError(f"{path} is missing: run the same command again to make it")
    rows = []
    for number, line in written_lines(read_text(path)):
        try:
            rows.append(_sound(json_value(line)))
        except ValueError as problem:
            raise RunFolderError(f"{path}:{number} is damaged: delete the file and run the command again") from problem
    if not rows:
        raise RunFolderError(f"{path} is empty: delete the file and run the command again")
    return rows


def _sound(row: Any) -> dict[str, Any]:
    """A row with the required fields."""
    texts = isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("id", "answer", "instruction"))
    golds = row.get("gold") if texts else None
    if not isinstance(golds, list) or not all(isinstance(gold, str) for gold in golds):
        raise ValueError("no answer")
    images = [row["image"]] if "image" in row else row.get("images")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError("no images")
    if not isinstance(row.get("expert"), str | None):
        raise ValueError("no expert")
    sound: dict[str, Any] = row
    return sound
