"""Layouts of the field that are met where another is read: named, with the way, instead of by their first odd key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evertune.data.turns import KEYS

LLAVA = "format: llava in a stream's YAML, or evertune data check --format llava"


def layout_of(row: Mapping[str, Any]) -> str:
    """What is said of a row, or of a whole file, in a layout that own data don't have; nothing where it is unknown."""
    if spoken := [key for key in KEYS if key in row]:
        return f"'{spoken[0]}' is a conversation: say {LLAVA}"
    if "annotations" in row and "images" in row:
        return (
            "'images' beside 'annotations' is COCO's layout, which is not read: write a row per image, "
            '{"image": FILE_NAME, "instruction": "Describe the image.", "answers": [CAPTIONS]}'
        )
    if "text" in row and "answer" in row:
        return f"'text' and 'answer' are a test row of LLaVA's layout: say {LLAVA}"
    if "output" in row:
        return "'output' is Alpaca's key: call it 'answer', and join 'instruction' and 'input' into 'instruction'"
    return ""
