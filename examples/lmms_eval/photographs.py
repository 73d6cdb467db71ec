"""The functions of the task `photographs.yaml` of lmms-eval (docs/evaluators.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path("my-photos")


def visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The image of a row."""
    with Image.open(FOLDER / doc["image"]) as opened:
        return [opened.convert("RGB")]


def text(doc: dict[str, Any], _settings: dict[str, Any] | None = None) -> str:
    """The question, word for word as it was learned."""
    return str(doc["instruction"])


def results(doc: dict[str, Any], predictions: list[str]) -> dict[str, float]:
    """1 for the exact answer."""
    return {"exact_match": float(predictions[0].strip() == doc["answer"])}
